"""Two plans side by side: what each takes, and the regions whose scheme differs."""

from __future__ import annotations

from typing import Any

from onnxmpq.page import as_document, compared, differing, render_comparison
from tests.page.reports import Parsed, made_report

NAMES = ("/a/Conv", "/a/Add", "/b/MatMul", "/b/MaxPool")


def changed() -> dict[str, Any]:
    """The same model under a smaller budget: one other scheme, faster, worse."""
    report = made_report(NAMES)
    report["regions"][2].update(scheme="int8", latency_ms=0.2)
    report["plan"]["measured"].update(latency_ms=1.04, size_bytes=3000)
    report["plan"]["budgets"] = {"latency": "50%"}
    report["validation"]["outputs"][1].update(sqnr_db=9.5)
    return report


def test_differing_regions() -> None:
    a, b = as_document(made_report(NAMES)), as_document(changed())
    [(x, y)] = differing(a, b)
    assert x is not None and y is not None
    assert (x.name, x.scheme, y.scheme) == ("/b/MatMul", "fp32", "int8")
    assert differing(a, a) == []


def test_effects_of_plans_have_their_activations() -> None:
    """As those of reports: a plan's file has both parts."""
    layers = [
        {"node": name, "op_type": "Conv", "scheme": scheme, "latency_ms": 1.0, "size_bytes": 9, "effect": 0.01}
        for name, scheme in zip(NAMES, ("int8", "fp32", "fp32", "fp32"), strict=True)
    ]
    plan = {"schema": "onnxmpq.plan/1", "layers": layers}
    with_activations = [{**row, "effect_activations": 0.25} for row in layers]
    old, new = (as_document({**plan, "layers": rows}).regions[0] for rows in (layers, with_activations))
    assert old.effect == 0.01 and new.effect == 0.26


def test_regions_that_one_plan_lacks() -> None:
    a, b = as_document(made_report(NAMES)), as_document(made_report(NAMES[:3]))
    [(x, y)] = differing(a, b)
    assert x is not None and x.name == "/b/MaxPool" and y is None


def test_figures_side_by_side() -> None:
    rows = {f.name: f for f in compared(as_document(made_report(NAMES)), as_document(changed()))}
    assert rows["latency"].shown == ("1.300 ms", "1.040 ms") and rows["latency"].difference == "0.800x"
    assert rows["size"].shown == ("4 kB", "3 kB") and rows["size"].difference == "0.750x"
    assert rows["budgets and floors"].shown == ("latency 70%, size 5kB", "latency 50%")
    assert rows["SQNR of the worst output"].shown == ("12.5 dB", "9.5 dB")
    assert rows["SQNR of the worst output"].difference == "-3.0 dB"
    assert rows["source model"].difference == ""


def test_other_models_are_pointed_out() -> None:
    other = made_report(("/c/Conv", "/a/Add", "/c/MatMul"))
    other["plan"]["model"]["sha256"] = "ef" * 32
    a, b = as_document(made_report(NAMES)), as_document(other)
    rows = {f.name: f for f in compared(a, b)}
    assert rows["source model"].difference == "not the same file"
    page = Parsed(render_comparison(a, b, ("a.json", "b.json")))
    assert "of 6 regions" in page.text and "plans of different models" in page.text


def test_page() -> None:
    page = Parsed(render_comparison(as_document(made_report(NAMES)), as_document(changed()), ("a.json", "b.json")))
    assert not page.faults
    assert "Scheme differs in 1 of 4 regions." in page.text
    cells = "".join(page.texts["td"])
    assert "/b/MatMul" in cells and "/b/MaxPool" not in cells


def test_a_report_and_a_plan() -> None:
    plan = {"schema": "onnxmpq.plan/2", **changed()["plan"]}
    plan["layers"][2]["scheme"] = "int8"
    page = Parsed(render_comparison(as_document(made_report(NAMES)), as_document(plan), ("a.json", "b.plan.json")))
    assert not page.faults and "/b/MatMul" in "".join(page.texts["td"])
