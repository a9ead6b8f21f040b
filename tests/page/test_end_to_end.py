"""From a conversion to its page: the report holds what the page shows, and the made-up reports look like it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxmpq
from onnxmpq.errors import UsageError
from onnxmpq.page import as_document, make_page, read_document, write_report
from tests.conftest import QUICK
from tests.graphs import residual_cnn, samples_for
from tests.page.reports import Parsed, made_report
from tests.tables import int8_pays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversion with its report as a page, and the same report as JSON."""
    path = tmp_path_factory.mktemp("converted")
    onnx.save_model(residual_cnn(), path / "model.onnx")
    result = onnxmpq.convert(
        path / "model.onnx",
        latency="80%",
        cost_table=int8_pays(path / "model.onnx", path),
        calibration=samples_for(residual_cnn(), 8),
        effort=QUICK,
        without=("gptq", "bias-correction"),
        output=path / "model.mpq.onnx",
        report=path / "report.html",
    )
    write_report(path / "report.json", result.report.to_json())
    return path


def test_the_page_has_every_region(folder: Path) -> None:
    page = Parsed((folder / "report.html").read_text(encoding="utf-8"))
    document = as_document(json.loads((folder / "report.json").read_text()))
    assert not page.faults and "Not in this file" not in page.text
    rows = "".join(page.texts["td"])
    assert len(document.regions) > 3
    assert [r.name for r in document.regions if r.name not in rows] == []
    for name, scheme in {r.name: r.scheme for r in document.regions}.items():
        assert any(name in (a.get("title") or "") and scheme in (a.get("title") or "") for _, a in page.tags)


def test_the_page_made_later_is_the_same(folder: Path) -> None:
    make_page([folder / "report.json"], folder / "later.html")
    assert (folder / "later.html").read_text() == (folder / "report.html").read_text()


def test_the_page_of_an_edited_plan_has_no_stale_measurements(folder: Path) -> None:
    """`read_plan` drops them; the page must not bring them back."""
    plan = json.loads((folder / "model.mpq.plan.json").read_text())
    assert plan["measured"]
    next(row for row in plan["layers"] if row["scheme"] != "fp32")["scheme"] = "fp32"
    (folder / "edited.plan.json").write_text(json.dumps(plan))
    assert not read_document(folder / "edited.plan.json").plan.at("measured")


def test_the_plan_makes_a_page_too(folder: Path) -> None:
    [written] = make_page([folder / "model.mpq.plan.json"])
    assert written == folder / "model.mpq.html"
    page = Parsed(written.read_text())
    assert not page.faults and "Budget met" in page.text


def test_made_up_reports_are_like_real_ones(folder: Path) -> None:
    """Fields that the page's tests rely on are fields of a real report."""
    real = json.loads((folder / "report.json").read_text())
    assert list(_foreign(made_report(), real)) == []


def _foreign(made: Any, real: Any, where: str = "") -> list[str]:
    """Fields of one document that the other does not have; tables of free keys and empty lists are passed over."""
    if where.endswith((".budgets", ".runtime", ".measured", ".metric", ".timing", ".timings")):
        return []
    if isinstance(made, dict) and isinstance(real, dict):
        found = [f"{where}.{k}" for k in made if k not in real]
        return found + [f for k in made if k in real for f in _foreign(made[k], real[k], f"{where}.{k}")]
    if isinstance(made, list) and isinstance(real, list) and made and real:
        return _foreign(made[0], real[0], f"{where}[]")
    return []


def test_static_int8_has_its_row(folder: Path) -> None:
    real = json.loads((folder / "report.json").read_text())
    [int8] = [row for row in real["uniform"] if row["name"] == "static int8"]
    assert int8["size_bytes"] and int8["regions"] > 0


def test_a_format_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="suffix decides the format"):
        onnxmpq.convert(tmp_path / "absent.onnx", report=tmp_path / "report.txt")
