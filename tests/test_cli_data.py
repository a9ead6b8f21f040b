"""The command line: sensitivities as a table, edited plans, points of the curve."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from tests.tables import int8_pays
from tests.test_cli import Folder, Run, run  # noqa: F401 (fixtures)


def test_sensitivity_as_text_file_and_json(tmp_path: Path, run: Run) -> None:  # noqa: F811
    folder = Folder(tmp_path)
    asked = ("sensitivity", folder.model, "--calib", folder.calib, "--quiet", "--scheme", "int8", "--cache", tmp_path)
    found = run(*asked)
    assert (found.code, found.err) == (0, "")
    rows = list(csv.DictReader(found.out.splitlines()))
    assert {r["region"] for r in rows} >= {"Conv_0", "Conv_3", "Conv_5", "Gemm_10"}
    assert all(bool(r["effect"]) != bool(r["reason"]) for r in rows)
    written = run(*asked, "-o", tmp_path / "t.json")
    assert written.code == 0 and f"wrote {tmp_path / 't.json'}: {len(rows)} rows" in written.out.replace("\n", "")
    printed = run(*asked, "--json")
    assert json.loads(printed.out) == json.loads((tmp_path / "t.json").read_text())
    assert [r["region"] for r in json.loads(printed.out)] == [r["region"] for r in rows]


def test_a_table_of_another_kind_is_refused_before_the_work(tmp_path: Path, run: Run) -> None:  # noqa: F811
    folder = Folder(tmp_path)
    found = run("sensitivity", folder.model, "-o", tmp_path / "t.html")
    assert found.code == 2 and "a table is written as .csv or .json" in found.err and not (tmp_path / "t.html").exists()


@pytest.fixture
def converted(tmp_path: Path, run: Run) -> Folder:  # noqa: F811
    """A folder with a converted model, its plan and the curve."""
    folder = Folder(tmp_path)
    table = int8_pays(folder.model, tmp_path)
    options = ("--latency", "80%", "--cost-table", table, "--curve", tmp_path / "curve.csv")
    assert run(*folder.convert(*options)).code == 0
    return folder


def test_a_point_of_the_curve(converted: Folder, run: Run) -> None:  # noqa: F811
    plan, output = converted / "model.mpq.plan.json", converted / "point.onnx"
    rows = list(csv.DictReader((converted / "curve.csv").read_text().splitlines()))
    last = rows[-1]["point"]
    found = run("apply", converted.model, plan, "--point", last, "-o", output)
    assert found.code == 0 and f"point {last} of the trade-off curve" in found.err
    assert "predicted: latency" in found.out and output.exists()
    assert json.loads((converted / "point.plan.json").read_text())["edits"] == [f"point {last} of the trade-off curve"]


def test_an_edited_plan_is_measured_and_said_to_be_edited(converted: Folder, run: Run) -> None:  # noqa: F811
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


@pytest.mark.parametrize(("limit", "code"), [("100GB", 0), ("1kB", 5)])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_is_measured_and_a_limit(limit: str, code: int, tmp_path: Path, run: Run) -> None:  # noqa: F811
    folder = Folder(tmp_path)
    asked = folder.convert(
        "--size", "60%", "--cost-table", int8_pays(folder.model, tmp_path), "-o", tmp_path / "o.onnx"
    )
    found = run(*asked, "--memory", limit, "--json")
    assert found.code == code and (tmp_path / "o.onnx").exists() == (code == 0)
    document = json.loads(found.out)
    if code:
        assert "--memory 1kB: a session takes " in document["error"]["message"]
        closest = json.loads(run(*asked, "--memory", limit, "--json", "--best-effort").out)
        assert closest["plan"]["met"] is False and "NOT met" in closest["conclusion"]["lines"][0]
    else:
        assert len(document["sessions"]) == 2 and document["plan"]["budgets"]["memory"] == limit
        assert f"({limit} asked)" in document["conclusion"]["lines"][0]
    judged = run("validate", folder.model, folder.model, "--calib", folder.calib, "--memory", limit, "--quiet")
    assert judged.code == (15 if code else 0)
