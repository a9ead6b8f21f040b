"""Node data as Model Explorer documents it: a table of results by node name, each with a value."""

from __future__ import annotations

import json
from pathlib import Path

from onnxmpq.page import as_document, node_data, overlay_paths, write_overlays
from tests.page.reports import made_report

NAMES = ("/a/Conv", "/a/Add", "/b/MatMul", "/b/MaxPool")
FIELDS = {"name", "results", "gradient", "showExpandedSummaryOnGroupNode"}


def test_results_by_node() -> None:
    found = node_data(as_document(made_report(NAMES)))
    schemes = found["scheme"]["results"]
    assert {n: schemes[n]["value"] for n in NAMES} == dict(zip(NAMES, ("w4a8", "int8", "fp32", "int8"), strict=True))
    assert schemes["/a/Add"]["bgColor"] == schemes["/b/MaxPool"]["bgColor"] != schemes["/b/MatMul"]["bgColor"]
    assert [found["latency"]["results"][n]["value"] for n in NAMES] == [0.25, 1.25, 2.25, 3.25]
    effects = [found["effect"]["results"][n]["value"] for n in NAMES]
    report = made_report(NAMES)["regions"]
    assert effects == [r["effect"] + r["effect_activations"] for r in report]


def test_nodes_of_the_source_model_have_the_same() -> None:
    """The model that is looked at may be the original, whose nodes have other names."""
    for content in node_data(as_document(made_report(NAMES))).values():
        for name in NAMES:
            assert content["results"][f"{name}_source"] == content["results"][name]


def test_gradients_have_both_ends() -> None:
    found = node_data(as_document(made_report(NAMES)))
    for what in ("latency", "effect"):
        assert [stop["stop"] for stop in found[what]["gradient"]] == [0, 1]
        assert all(isinstance(row["value"], float) for row in found[what]["results"].values())


def test_a_plan_has_what_it_knows() -> None:
    report = made_report(NAMES)
    plan = {"schema": "onnxmpq.plan/2", **report["plan"]}
    plan["layers"][1]["latency_ms"] = None
    found = node_data(as_document(plan))
    assert set(found["scheme"]["results"]) >= set(NAMES)
    assert "/a/Add" not in found["latency"]["results"] and "/a/Conv" in found["latency"]["results"]


def test_files(tmp_path: Path) -> None:
    written = write_overlays(tmp_path / "view.json", as_document(made_report(NAMES)))
    assert written == list(overlay_paths(tmp_path / "view.json").values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["view.effect.json", "view.latency.json", "view.scheme.json"]
    for path in written:
        content = json.loads(path.read_text())
        assert set(content) <= FIELDS and content["results"]
        assert "results" not in content["results"], "else the file would be taken for one with graph ids"
