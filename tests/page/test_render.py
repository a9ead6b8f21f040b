"""The page: whole, self-contained, of bounded size, and truthful about what its input lacks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import PlanError
from onnxmpq.page import as_document, node_data, render, render_comparison
from onnxmpq.page.sections import SECTIONS
from onnxmpq.page.tables import MOST_ROWS
from tests.page.reports import Parsed, made_output, made_report
from tests.page.test_markup import HOSTILE


def rendered(report: Any) -> Parsed:
    return Parsed(render(as_document(json.loads(json.dumps(report)))))


@pytest.mark.parametrize(
    ("budgets", "rough"),
    [({"size": "5kB"}, True), ({"latency": "70%", "size": "5kB"}, False), ({"latency": "fastest"}, False)],
)
def test_times_of_a_run_for_size_alone_are_marked(budgets: dict[str, str], rough: bool) -> None:
    report = made_report()
    report["plan"]["budgets"] = budgets
    text = rendered(report).text
    assert "over 16 plans that were timed" in text
    assert text.count("so few plans were timed: times of single regions are rough") == (4 if rough else 0)


def test_a_limit_of_memory_stands_beside_what_was_measured() -> None:
    report = made_report()
    report["sessions"] = [{"load_s": 0.01, "peak_bytes": 3_000_000}, {"load_s": 0.02, "peak_bytes": 1_500_000}]
    assert "Memory:" not in rendered(report).text
    report["plan"]["budgets"] = {"size": "5kB", "memory": "2MB"}
    text = rendered(report).text
    assert "Memory: 1.5 MB measured in a session with one run" in text
    assert "2MB" in text


def test_well_formed_and_complete() -> None:
    page = rendered(made_report())
    assert not page.faults
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [(a["href"] or "")[1:] for tag, a in page.tags if tag == "a"]
    assert set(links) <= set(ids) and {s.name for s in SECTIONS} <= set(links)
    assert "Not in this file" not in page.text
    for words in ("small.onnx", "opset raised from 13 to 21", "Warning: rule chain", "top-1", "AVX2".lower(), "1.32.0"):
        assert words in page.text


def test_loads_nothing() -> None:
    html = render(as_document(made_report()))
    assert not re.search(r"https?:|//|url\(|@import|<(img|iframe|object|embed|form|base)\b", html.replace("data:,", ""))
    page = Parsed(html)
    assert {a["href"] for tag, a in page.tags if tag == "link"} == {"data:,"}
    assert not [a for _, a in page.tags if any(n.startswith("on") or n in ("src", "style") for n in a)]


def test_policy_allows_only_our_script_and_style() -> None:
    page = Parsed(render(as_document(made_report())))
    [policy] = [a["content"] or "" for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for tag in ("script", "style"):
        assert len([t for t, _ in page.tags if t == tag]) == 1
        digest = hashlib.sha256("".join(page.texts[tag]).encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_every_region_is_there() -> None:
    names = [f"/block.{n}/layer/Conv" for n in range(150)]
    page = rendered(made_report(names))
    rows = "".join(page.texts["td"])
    assert [n for n in names if n not in rows] == []
    assert sum((a.get("class") or "").startswith("s") and tag == "span" and "title" in a for tag, a in page.tags) == 150


def test_numbers_are_sorted_by_their_value() -> None:
    page = rendered(made_report())
    values = [a["data-v"] for _, a in page.tags if "data-v" in a]
    assert values and all(v is not None and float(v) == float(v) for v in values)
    heads = [a for tag, a in page.tags if tag == "th"]
    assert heads and all(a.get("scope") == "col" for a in heads)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_are_text(hostile: str) -> None:
    """In every place that a model, a plan or a report can name something."""
    plain, page = rendered(made_report()), rendered(replaced(made_report(), hostile))
    assert not page.faults
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"wbr"}
    assert {n for _, a in page.tags for n in a} <= {n for _, a in plain.tags for n in a}


def replaced(value: Any, text: str) -> Any:
    """The same document with `text` behind every text and in every key of free choice."""
    if isinstance(value, dict):
        return {key: child if key == "schema" else replaced(child, text) for key, child in value.items()}
    if isinstance(value, list):
        return [replaced(child, text) for child in value]
    return value + text if isinstance(value, str) else value


def test_size_is_bounded() -> None:
    """A large model, and names of a megabyte."""
    large = render(as_document(made_report([f"/model/encoder/layer.{n}/attention/MatMul" for n in range(5000)])))
    assert len(large) < 700_000
    page = Parsed(large)
    assert f"{5000 - MOST_ROWS} more rows are left off" in page.text and not page.faults
    usual = render(as_document(made_report([f"/layer.{n}/conv/Conv" for n in range(250)])))
    assert len(usual) < 300_000
    report = replaced(made_report(), "x" * 1_000_000)
    assert len(render(as_document(report))) < 300_000


def test_a_plan_says_what_it_lacks() -> None:
    plan = made_report()["plan"]
    page = rendered({"schema": "onnxmpq.plan/2", **plan})
    assert not page.faults
    missing = [
        s.title for s in SECTIONS if s.needs and s.build(as_document({"schema": "onnxmpq.plan/2", **plan})) is None
    ]
    assert {"Time by operator", "Transitions", "Trade-off", "Outputs"} == set(missing)
    assert page.text.count("Not in this file") == len(missing)
    assert "--report FILE.json" in page.text
    for words in ("small.onnx", "70%", "1.300 ms", "/b/MatMul", "float32 is the fastest here", "A CPU"):
        assert words in page.text


@dataclass(frozen=True)
class Light:
    """A report, the colour of its verdict, and words of it."""

    id: str
    changes: dict[str, Any]
    plan: dict[str, Any]
    light: str
    words: str


LIGHTS = [
    Light("good", {}, {}, "good", "Budget met; quality good."),
    Light("missed", {}, {"met": False}, "bad", "Budget missed"),
    Light("bad", {"verdict": {"level": "bad", "reasons": ["KL"]}}, {}, "bad", "Do not use this file"),
    Light("worse", {"verdict": {"level": "noticeable", "reasons": ["KL"]}}, {}, "care", "Check your own metric"),
    Light("unknown", {"verdict": {"level": "unknown", "reasons": []}}, {}, "care", "real samples (--calib)"),
    Light("not checked", {}, {"met": None}, "good", "Budget not checked"),
    Light("edited", {}, {"edits": ["/a/Conv: int8, was fp32"]}, "care", "edited plan"),
    Light("advice", {"conclusion": {"advice": ["try --threads 0", "or not"]}}, {}, "good", "Try --threads 0; or not."),
    Light("another level", {"verdict": {"level": "splendid"}}, {}, "care", "quality unknown"),
    Light("no budget", {}, {"budgets": {}}, "good", "Asked: the lowest latency."),
]


@pytest.mark.parametrize("case", LIGHTS, ids=lambda c: c.id)
def test_verdict(case: Light) -> None:
    report = made_report(**case.changes)
    report["plan"].update(case.plan)
    page = rendered(report)
    [panel] = [a for tag, a in page.tags if (a.get("class") or "").startswith("verdict")]
    assert panel["class"] == f"verdict {case.light}"
    assert case.words in page.text


def test_unsteady_timing_is_no_green_light() -> None:
    report = made_report()
    report["validation"]["timing"].update(ratio_low=0.5, ratio_high=0.9)
    assert "timing unsteady" in rendered(report).text


@pytest.mark.parametrize(
    "limit, shown",
    [("70%", "70% = 1.400 ms"), ("1.5ms", "1.500 ms"), ("900us", "0.900 ms"), ("fastest", "fastest"), ("soon", "soon")],
)
def test_budgets_as_plans_spell_them(limit: str, shown: str) -> None:
    report = made_report()
    report["plan"]["budgets"] = {"latency": limit}
    assert shown in rendered(report).texts["td"]


def test_worst_output_is_first() -> None:
    rows = rendered(made_report()).texts["td"]
    assert rows.index("worse") < rows.index("good")


def test_perfect_outputs() -> None:
    """No error at all is an infinite SQNR, which Python's JSON spells Infinity; null is a figure that is not known."""
    report = made_report()
    report["validation"]["outputs"][0].update(sqnr_db=float("inf"), kl_nats=0.0)
    report["validation"]["outputs"][1].update(sqnr_db=None)
    page = rendered(report)
    assert page.texts["td"].count("exact") == 1 and not page.faults
    report["validation"]["outputs"][1].update(relative_mse=0.0)
    assert rendered(report).texts["td"].count("exact") == 2


def test_static_int8_beside_the_plan() -> None:
    """Where it was measured: columns of its own, and a ring on the chart."""
    report = made_report(int8={"outputs": [made_output("good", 30.0)], "samples": 21, "held_out": True})
    page = rendered(report)
    assert "Static int8: SQNR" in page.texts["button"] and "30.0 dB" in page.texts["td"]
    assert "Static int8: SQNR" not in rendered(made_report()).texts["button"]
    rings = [a for tag, a in page.tags if tag == "circle" and a["class"] == "mark static hollow"]
    assert len(rings) == 2, "over latency and over size"
    assert "divergence 0.0040, that of static int8 0.0020 on the same samples" in page.text


def test_modelled_latencies_are_not_called_measured() -> None:
    report = made_report()
    report["plan"]["measured"] = {"size_bytes": 4000}
    page = rendered(report)
    assert "1.250 ms predicted" in page.text and "Measured ms" not in page.texts["button"]
    assert "those of the target's" in page.text


def test_latency_with_other_threads() -> None:
    report = made_report()
    report["validation"]["other_timings"] = [{"threads": 0, "original_s": 1e-3, "result_s": 7e-4, "ratio": 0.7}]
    cells = rendered(report).texts["td"]
    assert cells[cells.index("default of a session") :][1:4] == ["1.000", "0.700", "0.7"]


def test_phases_of_a_decoder() -> None:
    report = made_report()
    phase = {"step": "decode", "tokens": 1, "before": 96, "original_ms": 1.0, "result_ms": 0.5, "ratio": 0.5}
    rates = {"original_tokens_per_s": 1000.0, "result_tokens_per_s": 2000.0}
    report.setdefault("conclusion", {}).setdefault("budget", {})["steps"] = [phase | rates]
    cells = rendered(report).texts["td"]
    assert cells[cells.index("decode") :][1:8] == ["1", "96", "1.000", "0.500", "0.5", "1000", "2000"]


def test_a_plan_that_keeps_its_forecast_shows_more() -> None:
    """Times in float32 and the trade-off curve are in a plan as well where it was written with them."""
    plan = made_report()["plan"]
    fp32 = {"fp32": {"latency_ms": 7.5, "size_bytes": 999}}
    plan["forecast"] = {"choices": {row["node"]: fp32 for row in plan["layers"]}}
    plan["points"] = [{"number": 1, "schemes": {}, "predicted": {"latency_ms": 1.0, "size_bytes": 10, "effect": 0.5}}]
    plan["data"] = {"samples": 64, "sha256": "0123abcd", "made_up": False}
    page = rendered({"schema": "onnxmpq.plan/2", **plan})
    assert {"7.500", "999 B", "point 1"} <= set(page.texts["td"]) and "0123abcd" in page.text
    assert page.text.count("Not in this file") == 2, "transitions, outputs"


def test_the_same_report_is_the_same_page() -> None:
    assert render(as_document(made_report())) == render(as_document(made_report()))


EXTREMES = (1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"), 10**400, -1, 0, "60%", "1e999ms")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(EXTREMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_value_anywhere_is_survived(data: st.DataObject) -> None:
    """Reports are files, and files come from others: a value of another type is one that is not known."""
    report = made_report()
    place, key = report, data.draw(st.sampled_from(sorted(report)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JSON)
    try:
        document = as_document(report)
    except PlanError:
        assert place is report and key in ("schema", "plan")
        return
    good = as_document(made_report())
    for html in (render(document), render_comparison(document, good, ("a", "b"))):
        page = Parsed(html)
        assert not page.faults
        numbers = [v for _, a in page.tags for n, v in a.items() if n in ("x", "y", "width", "cx", "cy", "x1", "x2")]
        assert not [v for v in numbers if v and ("nan" in v or "inf" in v)]
    json.dumps(node_data(document))


@pytest.mark.parametrize("content", [None, 3, [], {}, {"schema": "onnxmpq.plan/2"}, {"schema": "other", "plan": {}}])
def test_other_files_are_refused(content: Any) -> None:
    with pytest.raises(PlanError, match="no plan and no report of onnxmpq"):
        as_document(content)
