"""What of a fleet is converted again: all that may have changed, and nothing else. Conversions are made up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.files import plan_path, weights_path
from onnxmpq.fleet import run
from onnxmpq.measuring import measured_on
from onnxmpq.progress import Silent
from tests.conftest import QUICK
from tests.graphs import residual_cnn, samples_for

Again = Callable[..., list[str]]
NAMES = ("a", "b", "c")


@pytest.fixture
def again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Again:
    """Runs a fleet, and tells which models were converted."""
    asked: list[str] = []

    def convert(model: Path, output: str, report: str, **_: Any) -> None:
        asked.append(Path(model).stem)
        target, proto = Path(output), onnx.load(model)
        target.with_name(f"{target.name}.data").unlink(missing_ok=True)  # onnx appends to it
        onnx.save_model(proto, target, save_as_external_data=True, location=f"{target.name}.data", size_threshold=0)
        for path in (weights_path(plan_path(target)), plan_path(target), Path(report)):
            path.write_text("x", encoding="utf-8")

    def done(**options: Any) -> list[str]:
        asked.clear()
        onnxmpq.convert_many(tmp_path, tmp_path / "out", cache=False, progress=Silent(), target="edge-npu", **options)
        return list(asked)

    monkeypatch.setattr(run, "convert", convert)
    monkeypatch.setattr(run, "_with_figures", lambda row, _: row)
    for name in NAMES:
        onnx.save_model(
            residual_cnn(),
            tmp_path / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.weights",
            size_threshold=0,
        )
        np.savez(tmp_path / f"{name}.npz", **samples_for(residual_cnn(), 2))
    assert done() == list(NAMES) and done() == []
    return done


def touched(path: Path) -> None:
    path.touch()
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


@pytest.mark.parametrize("file", ["b.onnx", "b.weights", "b.npz", "b.json"])
def test_whatever_a_conversion_reads(file: str, again: Again, tmp_path: Path) -> None:
    """Model, external data, samples, and a tokenizer beside them."""
    touched(tmp_path / file)
    assert again() == ["b"]
    assert again() == []


@pytest.mark.parametrize("file", ["b.mpq.onnx", "b.mpq.onnx.data", "b.mpq.plan.json", "b.mpq.plan.weights", "b.html"])
def test_whatever_a_conversion_writes(file: str, again: Again, tmp_path: Path) -> None:
    (tmp_path / "out" / file).unlink()
    assert again() == ["b"]
    assert again() == []


def test_external_data_of_a_result_that_was_edited(again: Again, tmp_path: Path) -> None:
    path = tmp_path / "out" / "b.mpq.onnx.data"
    path.write_bytes(path.read_bytes()[::-1])
    assert again() == ["b"]


def test_a_model_that_lost_its_external_data(again: Again, tmp_path: Path) -> None:
    (tmp_path / "b.weights").unlink()
    assert again() == again() == ["b"]


def test_functions_of_python_are_never_known(again: Again, tmp_path: Path) -> None:
    feeds = samples_for(residual_cnn(), 2)
    for given in (lambda: iter([feeds]), "json:dumps"):
        assert again(calibration=given) == again(calibration=given) == list(NAMES)
    assert again(calibration=feeds) == list(NAMES)
    assert again(calibration=feeds) == []
    assert again(calibration=samples_for(residual_cnn(), 3)) == list(NAMES)
    metric = {"metric": "json:dumps"}
    assert again(**metric) == again(**metric) == list(NAMES)


def test_where_time_is_taken_and_how_long(again: Again) -> None:
    board: Any = SimpleNamespace(described={"cpu": "a board"}, machine="board")
    with measured_on(board):
        assert again() == list(NAMES) and again() == []
    assert again() == list(NAMES)
    assert again(effort=QUICK) == list(NAMES)


def test_what_an_earlier_run_did_outlives_an_interruption(
    again: Again, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = run.convert

    def stopped(model: Path, **options: Any) -> Any:
        if Path(model).stem == "b":
            raise KeyboardInterrupt
        return convert(model, **options)

    for name in ("a", "b"):
        touched(tmp_path / f"{name}.npz")
    with monkeypatch.context() as patch:
        patch.setattr(run, "convert", stopped)
        with pytest.raises(KeyboardInterrupt):
            again()
    told = json.loads((tmp_path / "out" / "fleet.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in told["models"]] == ["a", "c"] and told["unfinished"] == ["b"]
    page = (tmp_path / "out" / "fleet.html").read_text(encoding="utf-8")
    assert "2 of 3 models converted" in page and 'href="c.html"' in page
    assert again() == ["b"]
