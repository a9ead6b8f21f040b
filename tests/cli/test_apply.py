"""`apply`: edited plans, and points of the curve."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.folders import Folder, Run
from tests.tables import int8_pays


@pytest.fixture
def converted(tmp_path: Path, run: Run) -> Folder:
    """A folder with a converted model, its plan and the curve."""
    folder = Folder(tmp_path)
    table = int8_pays(folder.model, tmp_path)
    options = ("--latency", "80%", "--cost-table", table, "--curve", tmp_path / "curve.csv")
    assert run(*folder.convert(*options)).code == 0
    return folder


def test_a_point_of_the_curve(converted: Folder, run: Run) -> None:
    plan, output = converted / "model.mpq.plan.json", converted / "point.onnx"
    rows = list(csv.DictReader((converted / "curve.csv").read_text().splitlines()))
    last = rows[-1]["point"]
    found = run("apply", converted.model, plan, "--point", last, "-o", output)
    assert found.code == 0 and f"point {last} of the trade-off curve" in found.err
    assert "predicted: latency" in found.out and output.exists()
    assert json.loads((converted / "point.plan.json").read_text())["edits"] == [f"point {last} of the trade-off curve"]


def test_an_edited_plan_is_measured_and_said_to_be_edited(converted: Folder, run: Run) -> None:
    plan, output = converted / "model.mpq.plan.json", converted / "edited.onnx"
    data = json.loads(plan.read_text())
    row = next(r for r in data["layers"] if r["size_bytes"] and r["scheme"] != "fp32")
    line = f"{row['node']}: {row['scheme']} -> fp32"
    row["scheme"] = "fp32"
    edited = converted / "by_hand.json"
    edited.write_text(json.dumps(data))
    asked = ("apply", converted.model, edited, "-o", output, "--measure", "--calib", converted.calib)
    found = run(*asked)
    assert found.code == 0 and f"edited plan: {line}" in found.err
    for words in ("predicted: latency", "measured: latency", "budget of the plan: latency 80%", "quality: "):
        assert words in found.out
    printed = json.loads(run(*asked, "--json", "--quiet").out)
    assert printed["edits"] == [line] and printed["validation"]["samples"] == 8
    assert printed["plan"].endswith("edited.plan.json") and printed["measured"]["latency_ms"] > 0
