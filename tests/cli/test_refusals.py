"""For everything that can go wrong one line, a code of its own, and no file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import onnxmpq
from onnxmpq import pipeline
from onnxmpq.errors import exit_codes
from onnxmpq.model import prepare
from tests.cli.folders import Folder, Run
from tests.cli.refused import budgets, files, models, options, samples, targets
from tests.cli.refused.case import Bad
from tests.conftest import SAMPLES

BAD = [case for kind in (models, samples, options, budgets, targets, files) for case in kind.REFUSED]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_one_line_a_code_and_no_file(case: Bad, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = Folder(tmp_path)
    arguments = case.arrange(folder)
    before = folder.content()
    found = run(*arguments)
    assert found.code == case.code, found.err
    lines = found.err.splitlines()
    assert len(lines) == 1, found.err
    assert lines[0].startswith("onnxmpq: error: ")
    assert case.message in lines[0]
    assert found.out == ""
    assert folder.content() == before, "a file was left, or the input was changed"


def test_an_unmeetable_budget_names_what_holds_it_back(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    regions = {r.name for r in prepare(folder.model).regions}
    for option, value in (("--latency", "1ns"), ("--size", "1kB")):
        error = run(*folder.convert(option, value)).err
        held = re.search(r"(?:most of it is in|largest in it:) (\w+) [\d.]+ (ms|kB), (\w+) ", error)
        assert held, error
        assert {held[1], held[3]} <= regions


def test_debug_shows_where(tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(onnxmpq.errors.ModelError):
        run("convert", tmp_path / "nothing.onnx", "--debug")


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("some\ndefect"), "--debug"), (MemoryError(), "there is not enough memory")],
    ids=["defect", "memory"],
)
def test_a_defect_is_one_line_too(
    error: Exception, said: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "open_model", fail)
    found = run(*Folder(tmp_path).convert())
    assert found.code == 1
    assert len(found.err.splitlines()) == 1
    assert said in found.err and "Traceback" not in found.err


def test_lack_of_memory_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB\nfor an array")

    monkeypatch.setattr("onnxmpq.commands.inspection.inspect", fails)
    found = run("inspect", SAMPLES / "digits_cnn.onnx")
    assert found.code == 1 and not found.out
    assert found.err == (
        "onnxmpq: error: there is not enough memory (Unable to allocate 9 TiB for an array); give fewer samples\n"
    )


def test_help_lists_every_exit_code(run: Run) -> None:
    text = " ".join(run("--help").out.split())
    for code, meaning in exit_codes():
        assert f"{code} {meaning}" in text
    assert {code for code, _ in exit_codes()} >= {case.code for case in BAD} | {0, 130}
