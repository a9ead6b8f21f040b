"""`inspect`, `profile`, `calibrate` and `sensitivity`, and what `convert` does with their files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import onnx

import onnxmpq
from onnxmpq.cost.table import CostTable
from onnxmpq.files import serialize
from tests.cli.folders import Folder, Run
from tests.tables import int8_pays


def test_inspect(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    text = run("inspect", folder.model).out
    for words in ("4 layers", "Conv+Relu", "w4a8", "other regions"):
        assert words in text
    document = json.loads(run("inspect", folder.model, "--json").out)
    assert [r["name"] for r in document["regions"]][:2] == ["Conv_0", "MaxPool_2"]


def test_inspect_keeps_names_on_one_line_in_a_pipe(tmp_path: Path, run: Run) -> None:
    name = "/" + "/".join(f"stage.{n}/block" for n in range(9)) + "/Conv"
    model = onnx.load(Folder(tmp_path).model)
    model.graph.node[0].name = name
    onnx.save(model, tmp_path / "long.onnx")
    assert len(name) > 100 and name in run("inspect", tmp_path / "long.onnx").out


def test_profile_here_plan_there(tmp_path: Path, run: Run) -> None:
    """A table measured once serves later conversions without measuring."""
    folder = Folder(tmp_path)
    table = tmp_path / "table.json"
    found = run("profile", folder.model, "--calib", folder.calib, "-o", table)
    assert found.code == 0, found.err
    assert CostTable.from_json(table.read_text()).node_s
    found = run(*folder.convert("--size", "60%", "--cost-table", table, "-o", tmp_path / "out.onnx"))
    assert found.code == 0, found.err
    assert serialize(onnxmpq.apply(folder.model, tmp_path / "out.plan.json")) == (tmp_path / "out.onnx").read_bytes()


def test_calibrate_then_convert(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    ranges = tmp_path / "ranges.npz"
    found = run("calibrate", folder.model, "--calib", folder.calib, "-o", ranges, "--no-cache", "--quiet")
    assert (found.code, found.err) == (0, "")
    for words in ("6 samples", "min", "max", "mse", "1x16x8x8", "wrote"):
        assert words in found.out
    again = run("calibrate", folder.model, "--calib", folder.calib, "-o", ranges, "--json")
    document = json.loads(again.out)
    assert document["schema"].startswith("onnxmpq.calibration/")
    assert document["samples"]["count"] == 6 and set(document["estimators"]) >= {"mse", "minmax", "percentile"}
    table = int8_pays(folder.model, tmp_path)
    found = run(*folder.convert("--latency", "80%", "--cost-table", table, "--ranges", ranges, "--no-cache"))
    assert (found.code, found.err) == (0, "")


def test_sensitivity_as_text_file_and_json(tmp_path: Path, run: Run) -> None:
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


def test_a_table_of_another_kind_is_refused_before_the_work(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run("sensitivity", folder.model, "-o", tmp_path / "t.html")
    assert found.code == 2 and "a table is written as .csv or .json" in found.err and not (tmp_path / "t.html").exists()
