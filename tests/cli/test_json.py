"""`--json`: warnings, and files that were written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import onnxmpq
from onnxmpq.cost.table import CostTable
from tests.cli.folders import FAST, Folder, Run, warned
from tests.tables import int8_pays


def test_json_of_commands_that_write_files(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    plan = onnxmpq.convert(folder.model, size="smallest", cost_table=int8_pays(folder.model, tmp_path)).plan
    (tmp_path / "a.plan.json").write_text(plan.to_json())
    page = json.loads(run("report", tmp_path / "a.plan.json", "--json", "-q").out)
    assert page["written"] == [str(tmp_path / "a.html")] and (tmp_path / "a.html").exists()
    table = tmp_path / "table.json"
    measured = json.loads(run("profile", folder.model, "-o", table, "--json", "-q").out)
    assert measured["table"] == str(table) and CostTable.from_json(table.read_text())
    assert any("made up" in warning for warning in measured["warnings"])


WARNING: dict[str, Callable[[Folder], tuple[object, ...]]] = {
    "convert": lambda f: f.convert("--size", "60%", "-o", f / "o.onnx"),
    "convert, made-up samples": lambda f: (
        *("convert", f.model, "--size", "60%", "--samples", 8, "-q", *FAST, "-o", f / "o.onnx"),
    ),
    "convert, few samples": lambda f: f.few("convert", f.model, "--size", "60%", "-q", *FAST, "-o", f / "o.onnx"),
    "dry run": lambda f: ("convert", f.model, "--size", "60%", "--samples", 8, "-q", *FAST, "--dry-run"),
    "validate": lambda f: ("validate", f.model, f.model, "-q"),
    "validate, a floor": lambda f: f.few("validate", f.model, f.model, "-q", "--min-sqnr", "10dB"),
    "calibrate": lambda f: ("calibrate", f.model, "-q", "-o", f / "r.npz"),
    "apply": lambda f: (*f.plan()[:3], "--measure"),
}


@pytest.mark.parametrize("case", WARNING)
def test_json_has_the_warnings_of_the_screen(case: str, tmp_path: Path, run: Run) -> None:
    found = run(*WARNING[case](Folder(tmp_path)), "--json")
    assert json.loads(found.out)["warnings"] == warned(found)
    assert bool(warned(found)) == (case not in ("convert", "validate, a floor"))
