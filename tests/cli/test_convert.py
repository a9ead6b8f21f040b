"""`convert`: with its plan and report, a dry run, limits, the cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.folders import FAST, Folder, Run
from tests.tables import int8_pays


def test_convert_validate_apply(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    source = folder.model.read_bytes()
    table = int8_pays(folder.model, tmp_path)
    report = tmp_path / "report.json"
    found = run(*folder.convert("--latency", "80%", "--cost-table", table, "--report", report))
    assert (found.code, found.err) == (0, "")
    for words in ("weight bytes quantized", "SQNR", "top-1 agreement", "latency", "wrote"):
        assert words in found.out
    assert "wrote " in found.out and f" and {report}\n" in found.out
    assert folder.model.read_bytes() == source
    result, plan = tmp_path / "model.mpq.onnx", tmp_path / "model.mpq.plan.json"
    document = json.loads(report.read_text())
    assert document["schema"].startswith("onnxmpq.report/")
    assert document["result_bytes"] == result.stat().st_size
    again = tmp_path / "again.onnx"
    assert run("apply", folder.model, plan, "-o", again).code == 0
    assert again.read_bytes() == result.read_bytes()
    checked = run("validate", folder.model, result, "--calib", folder.calib, "--json")
    assert checked.code == 0
    [quality] = json.loads(checked.out)["outputs"]
    assert quality["name"] == "y" and quality["sqnr_db"] > 15
    low = run("validate", folder.model, result, "--calib", folder.calib, "--min-sqnr", "200")
    assert low.code == 15 and "at least 200 asked" in low.err


def test_json_is_all_that_is_printed(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run(*folder.convert("--size", "50%", "--json", "-o", tmp_path / "small.onnx"))
    document = json.loads(found.out)
    assert document["plan"]["budgets"] == {"size": "50%"}
    assert document["result_bytes"] <= 0.5 * document["original_bytes"]


def test_made_up_inputs_are_warned_of_even_when_quiet(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run("convert", folder.model, "--size", "smallest", "--quiet", "--samples", "8", *FAST)
    assert found.code == 0
    assert found.err.startswith("warning: ")


def test_a_dry_run_predicts_and_writes_nothing(tmp_path: Path, run: Run) -> None:
    """And ends as convert would."""
    folder = Folder(tmp_path)
    table = int8_pays(folder.model, folder.path)
    before = folder.content()
    found = run(*folder.convert("--latency", "80%", "--cost-table", table, "--dry-run", "--json"))
    assert found.code == 0, found.err
    said = json.loads(found.out)
    assert said["schema"] == "onnxmpq.prediction/1"
    assert said["figures"]["latency_ms"] <= 0.8 * said["original"]["latency_ms"]
    assert said["met"] and said["schemes"]
    text = run(*folder.convert("--latency", "80%", "--min-sqnr", "9dB", "--cost-table", table, "--dry-run")).out
    assert "nothing was written" in text and "not predicted, convert measures it: --min-sqnr 9dB" in text
    for options, code in ((("--latency", "1ns"), 5), (("--latency", "200%"), 14), (("--size", "1kB"), 5)):
        assert run(*folder.convert(*options, "--cost-table", table, "--dry-run")).code == code
    closest = run(*folder.convert("--latency", "1ns", "--cost-table", table, "--dry-run", "--best-effort", "--json"))
    assert closest.code == 0 and not json.loads(closest.out)["met"]
    assert folder.content() == before


@pytest.mark.parametrize(("limit", "code"), [("100GB", 0), ("1kB", 5)])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_is_measured_and_a_limit(limit: str, code: int, tmp_path: Path, run: Run) -> None:
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


def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run(*folder.convert("--size", "smallest", "--cache", folder.model / "cache"))
    assert found.code == 0
    assert found.err.count("warning") == 1 and "nothing is cached" in found.err


def test_the_cache_is_where_it_was_asked_for(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    command = folder.convert("--size", "smallest", "--cache", tmp_path / "cache")
    assert run(*command).code == 0
    assert list((tmp_path / "cache").glob("*/*.npz"))
