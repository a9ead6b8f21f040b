"""The commands and the program of docs/quickstart.md, run in their order on the sample models."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.short_measurements import write_program
from tests.test_docs_ci import ROOT, ran

PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
WRITTEN = ("digits.onnx", "digits.plan.json", "page.html")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the samples, after all commands of the page."""
    path = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(ROOT / "samples", path / "samples")
    write_program(path)
    commands = [line for body in blocks("sh") for line in body.splitlines()]
    assert [command.split()[1] for command in commands] == ["inspect", "convert", "validate"]
    for command in commands:
        done = ran(command, path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if "convert" in command:
            assert [line.split()[0].rstrip(":") for line in done.stdout.splitlines()[-3:]] == [
                "budget",
                "quality",
                "next",
            ]
    return path


def test_every_command_runs(folder: Path) -> None:
    for name in WRITTEN:
        assert (folder / name).is_file() and name in PAGE


def test_the_program_recognises_digits(folder: Path) -> None:
    """Without onnxmpq in it."""
    [program] = blocks("python")
    assert "onnxmpq" not in program
    (folder / "program.py").write_text(program)
    done = ran(f'"{sys.executable}" program.py', folder)
    assert done.returncode == 0, done.stderr
    expected = np.load(ROOT / "samples" / "digits_test_labels.npy")[:8]
    found = [int(digit) for digit in re.findall(r"\d+", done.stdout)]
    assert np.mean(np.array(found) == expected) >= 0.5
