"""Edited plans: checked, predicted again, measured on demand, and said to be edited."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxmpq
from onnxmpq.dialects import marked
from onnxmpq.errors import PlanError, UsageError
from onnxmpq.feeds import Timed
from onnxmpq.files import serialize
from onnxmpq.plan import RETOUCHED, Plan, read_plan
from onnxmpq.plan.stamp import stamped
from onnxmpq.progress import Progress
from onnxmpq.quality import Timing, time_side_by_side
from onnxmpq.replay import apply_plan, remeasure
from onnxmpq.replay.replay import as_dict, in_words
from onnxmpq.result import Result
from tests.conftest import QUICK
from tests.graphs import residual_cnn, samples_for
from tests.tables import int8_pays

PROTO = residual_cnn()
SAMPLES = samples_for(PROTO, 16)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """With the trade-off curve."""
    folder = tmp_path_factory.mktemp("edited")
    return onnxmpq.convert(
        PROTO,
        calibration=SAMPLES,
        latency="80%",
        size="60%",
        cost_table=int8_pays(PROTO, folder),
        effort=QUICK,
        curve=folder / "curve.csv",
    )


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    warn = say


def edited(result: Result, change: Callable[[dict[str, Any]], object]) -> Plan:
    data = json.loads(result.plan.to_json())
    change(data)
    return Plan.from_json(json.dumps(data))


def with_scheme(scheme: str, node: str = "Conv_3") -> Callable[[dict[str, Any]], object]:
    return lambda data: next(r for r in data["layers"] if r["node"] == node).update(scheme=scheme)


def test_a_plan_as_it_was_written_is_not_edited(result: Result) -> None:
    assert not result.plan.changed and not result.plan.edits and not result.plan.differences()
    applied = apply_plan(PROTO, result.plan)
    assert applied.plan == result.plan and serialize(applied.model) == serialize(result.model)


def test_what_was_measured_of_other_decisions_is_dropped_as_the_plan_is_read(result: Result) -> None:
    plan = edited(result, with_scheme("fp32"))
    assert plan.changed and plan.differences() == ["Conv_3: int8 -> fp32"]
    assert not plan.measured and not plan.prediction and not plan.quality and plan.met is None
    rows = {r.node: r for r in plan.layers}
    assert rows["Conv_3"].latency_ms is None and rows["Conv_5"].latency_ms is not None


@pytest.mark.parametrize("change", [{"notes": ["mine"]}, {"created": "now"}])
def test_what_decides_nothing_may_be_changed(change: dict[str, Any], result: Result) -> None:
    assert not edited(result, lambda data: data.update(change)).changed


def test_an_edited_plan_is_predicted_again(result: Result, tmp_path: Path) -> None:
    heard = Heard()
    applied = apply_plan(PROTO, edited(result, with_scheme("fp32")), output=tmp_path / "o.onnx", progress=heard)
    plan, problem = applied.plan, result.plan.forecast
    assert problem is not None
    assert plan.edits == ("Conv_3: int8 -> fp32",) and not plan.changed
    assert "edited plan: Conv_3: int8 -> fp32; nothing was measured again" in heard.lines
    assert plan.prediction.keys() == {"latency_ms", "size_bytes", "effect", "original_latency_ms"}
    assert plan.prediction["effect"] < result.plan.prediction["effect"]
    for found in (plan, result.plan):
        parts = [(row.effect or 0.0) + (row.effect_activations or 0.0) for row in found.layers]
        assert sum(parts) == pytest.approx(found.prediction["effect"])
    assert plan.prediction["latency_ms"] > result.plan.prediction["latency_ms"]
    assert plan.prediction["size_bytes"] == pytest.approx(plan.measured["size_bytes"], rel=0.1)
    assert plan.measured == {"size_bytes": applied.model.ByteSize()}
    row = next(r for r in plan.layers if r.node == "Conv_3")
    assert row.reason == "set by hand: int8 was chosen" and row.size_bytes is not None and row.effect == 0.0
    assert read_plan(tmp_path / "o.plan.json") == plan
    assert in_words(applied)[0].startswith("predicted: latency ")


def test_the_prediction_of_the_chosen_plan_comes_out_of_the_forecast(result: Result) -> None:
    """There and back by an edit and its inverse."""
    there = edited(result, with_scheme("w8")).to_json()
    back = json.loads(there)
    with_scheme("int8")(back)
    plan = apply_plan(PROTO, edited(result, lambda data: data.update(back))).plan
    assert not plan.edits, "the decisions are those of the plan again"
    other = apply_plan(PROTO, edited(result, with_scheme("w4a8"))).plan
    assert other.forecast is not None and result.plan.forecast is not None
    figures = result.plan.forecast.choices["Conv_3"]
    changes = figures["w4a8"]["effect"] - figures["int8"]["effect"]
    assert other.prediction["effect"] == pytest.approx(result.plan.prediction["effect"] + changes, rel=1e-6)


def test_the_plan_beside_the_output_gives_the_same_bytes_and_stays_an_edited_one(
    result: Result, tmp_path: Path
) -> None:
    plan = edited(result, with_scheme("w4a8"))
    apply_plan(PROTO, plan, output=tmp_path / "one.onnx")
    again = apply_plan(PROTO, tmp_path / "one.plan.json", output=tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert again.plan.edits == ("Conv_3: int8 -> w4a8",)
    assert stamped(again.model)["edited"] == "Conv_3: int8 -> w4a8"
    assert marked(again.model)["Conv_3"] == "w4a8"


def test_weights_that_the_plan_does_not_have_are_named_and_can_be_rounded_for_samples(result: Result) -> None:
    plan = edited(result, lambda data: (with_scheme("w5a8")(data), data.update(point_weights={})))
    nearest = apply_plan(PROTO, plan)
    assert any("weights of Conv_3 are rounded to nearest" in note for note in nearest.plan.notes)
    assert "Conv_3" not in nearest.plan.weights
    rounded = apply_plan(PROTO, plan, calibration=SAMPLES)
    assert not any("rounded to nearest" in note for note in rounded.plan.notes)
    assert "Conv_3" in rounded.plan.weights
    assert serialize(rounded.model) != serialize(nearest.model)
    assert serialize(apply_plan(PROTO, rounded.plan).model) == serialize(rounded.model)


def test_it_is_measured_on_demand(result: Result) -> None:
    plan = edited(result, with_scheme("fp32"))
    applied = apply_plan(PROTO, plan, measure=True, calibration=SAMPLES, effort=QUICK)
    assert applied.validation is not None and applied.validation.samples == 16
    measured = applied.plan.measured
    assert measured["latency_ms_low"] <= measured["latency_ms"] * 1.0001 and measured["original_latency_ms"] > 0
    assert applied.plan.quality["level"] in ("good", "noticeable", "bad")
    assert applied.plan.met in (True, False)
    assert not applied.plan.changed and applied.plan.created


def test_it_is_measured_as_was_asked(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels, kinds of outputs, and shapes: those of the call, else those that the plan was made for."""
    seen: list[tuple[int, ...]] = []

    def spied(original: Any, converted: Any, feeds: Timed, *rest: Any) -> Timing:
        seen.append(feeds.first.batch([feeds.first.typical])["x"].shape)
        return time_side_by_side(original, converted, feeds, *rest)

    monkeypatch.setattr(remeasure, "time_side_by_side", spied)
    asked: dict[str, Any] = {"measure": True, "calibration": SAMPLES, "effort": QUICK}
    shaped = replace(result.plan, options={**result.plan.options, "shape": {"x": "3x3x16x16"}})
    labelled = replace(result.plan, budgets={"max_drop": "100%", "size": "100%"})
    for plan, more in (
        (result.plan, {}),
        (shaped, {}),
        (shaped, {"shape": {"x": "2x3x16x16"}}),
        (labelled, {"labels": [0] * 16, "outputs": {"y": "values"}}),
    ):
        applied = apply_plan(PROTO, plan, **asked, **more)
    assert seen == [(1, 3, 16, 16), (3, 3, 16, 16), (2, 3, 16, 16), (1, 3, 16, 16)]
    assert applied.validation is not None and applied.validation.metric is not None and applied.plan.met is True
    assert [o.kind for o in applied.validation.outputs] == ["values"]


def test_memory_is_measured_and_its_limit_judged(result: Result) -> None:
    for limit, met in (("1kB", False), ("1000GB", True)):
        plan = replace(result.plan, budgets={"memory": limit})
        applied = apply_plan(PROTO, plan, measure=True, calibration=SAMPLES, effort=QUICK)
        assert applied.sessions is not None and all(s.load_s > 0 for s in applied.sessions)
        known = all(s.peak_bytes is not None for s in applied.sessions)  # where the system tells
        assert applied.plan.met is (met and known)
        assert as_dict(applied)["sessions"]["result"]["load_s"] == applied.sessions[1].load_s
        assert any(line.startswith("session opens in") for line in in_words(applied))


def test_a_note_on_what_is_timed_is_that_of_the_last_measurement(result: Result) -> None:
    asked: dict[str, Any] = {"measure": True, "calibration": SAMPLES, "effort": QUICK}
    applied = apply_plan(PROTO, result.plan, shape={"x": "2x3x16x16"}, **asked)
    assert "latency is that of x=2x3x16x16" in applied.plan.notes
    again = apply_plan(PROTO, applied.plan, shape={"x": "4x3x16x16"}, **asked)
    assert [note for note in again.plan.notes if "latency is that of" in note] == ["latency is that of x=4x3x16x16"]


@pytest.mark.parametrize(
    "given",
    [{"labels": [0] * 16}, {"shape": {"x": "2x3x16x16"}}, {"outputs": {"y": "values"}}, {"step": "decode"}],
    ids=lambda given: "".join(given),
)
def test_what_only_measuring_uses_is_refused_without(given: dict[str, Any], result: Result) -> None:
    with pytest.raises(UsageError, match="says how to measure; give --measure too"):
        apply_plan(PROTO, result.plan, **given)


RETOUCHES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a latency": lambda d: d["measured"].update(size_bytes=1),
    "a budget": lambda d: d.update(met=None),
    "a verdict": lambda d: d.update(quality={"level": "good", "reasons": ["I say so"]}),
    "a new figure": lambda d: d["measured"].update(latency_ms=0.001),
    "none left": lambda d: d.update(measured={}),
}


@pytest.mark.parametrize("change", RETOUCHES.values(), ids=list(RETOUCHES))
def test_figures_that_were_edited_are_not_believed(
    change: Callable[[dict[str, Any]], object], result: Result, tmp_path: Path
) -> None:
    plan = edited(result, change)
    assert not plan.changed and RETOUCHED in plan.notes
    assert (plan.measured, plan.met, plan.quality["level"]) == ({}, None, "unknown")
    heard = Heard()
    applied = apply_plan(PROTO, plan, output=tmp_path / "o.onnx", progress=heard)
    assert RETOUCHED in heard.lines and serialize(applied.model) == serialize(result.model)
    assert read_plan(tmp_path / "o.plan.json") == applied.plan
    again = apply_plan(PROTO, plan, measure=True, calibration=SAMPLES, effort=QUICK)
    assert again.plan.measured and RETOUCHED not in again.plan.notes
    assert Plan.from_json(again.plan.to_json()) == again.plan


def test_made_up_samples_measure_no_quality(result: Result) -> None:
    applied = apply_plan(PROTO, result.plan, measure=True, samples=4, effort=QUICK)
    assert applied.plan.quality["level"] == "unknown"


REFUSED = {
    "unknown key": (lambda d: d.update(layer=[]), "field 'layer' is unknown; did you mean layers"),
    "key of a layer": (
        lambda d: d["layers"][0].update(schem="w8"),
        r"'layers\[0\].schem' is unknown; did you mean scheme",
    ),
    "key of a tensor": (
        lambda d: d["activations"]["x"].update(scal=1),
        "'activations.x.scal' is unknown; did you mean scale",
    ),
    "unknown scheme": (with_scheme("int88"), "node 'Conv_3' has unknown scheme 'int88'; did you mean int8"),
    "not of the target": (
        with_scheme("w8a8-fp8"),
        r"\(Conv\) cannot have scheme 'w8a8-fp8' on target 'cpu'; it has fp32, w8",
    ),
    "misspelt node": (
        lambda d: d["layers"][0].update(node="Conv_00"),
        "node 'Conv_00' is not in the model; did you mean Conv_0",
    ),
    "deleted layer": (
        lambda d: d.update(layers=[r for r in d["layers"] if r["node"] != "Conv_3"]),
        "no entry for node 'Conv_3'; put it back, with scheme 'fp32' to leave it in float32",
    ),
    "damaged forecast": (
        lambda d: (with_scheme("w8")(d), d["forecast"]["costs"].pop("node_s")),
        "forecast: .*node_s.*; convert the model again",
    ),
    "text in the forecast": (lambda d: d["forecast"]["activations"].update(x="1"), "x is '1', not a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_checked_strictly(name: str, result: Result) -> None:
    change, message = REFUSED[name]
    with pytest.raises(PlanError, match=message) as caught:
        apply_plan(PROTO, edited(result, change))
    assert "\n" not in str(caught.value)


def test_a_scheme_that_was_never_on_the_menu_is_not_predicted(result: Result) -> None:
    plan = edited(result, lambda d: (with_scheme("u8u8")(d), d["forecast"]["choices"]["Conv_3"].pop("u8u8")))
    applied = apply_plan(PROTO, plan)
    assert not applied.plan.prediction
    assert any("no prediction: u8u8 of Conv_3 was not on the menu" in note for note in applied.plan.notes)


def test_every_point_of_the_curve_is_a_model(result: Result, tmp_path: Path) -> None:
    assert len(result.plan.points) == len(result.report.curve) > 1
    sizes = []
    for point, drawn in zip(result.plan.points, result.report.curve, strict=True):
        output = tmp_path / f"{point.number}.onnx"
        applied = apply_plan(PROTO, result.plan, point=point.number, output=output)
        onnx.checker.check_model(applied.model)
        assert applied.plan.schemes == point.schemes == {r: s.name for r, s in drawn.assignment.items()}
        assert applied.plan.edits == (f"point {point.number} of the trade-off curve",)
        for figure in ("latency_ms", "effect"):
            assert applied.plan.prediction[figure] == pytest.approx(point.predicted[figure], rel=1e-6, abs=1e-12)
        assert not any("rounded to nearest" in note for note in applied.plan.notes)
        assert output.read_bytes() == serialize(apply_plan(PROTO, tmp_path / f"{point.number}.plan.json").model)
        sizes.append(output.stat().st_size)
    assert len(set(sizes)) > 1


def test_points_that_do_not_exist(result: Result, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="the plan's curve has points 1 to"):
        apply_plan(PROTO, result.plan, point=99)
    with pytest.raises(PlanError, match="has no trade-off curve; convert with --curve"):
        apply_plan(PROTO, edited(result, lambda d: d.update(points=[])), point=1)
    path = tmp_path / "m.plan.json"
    path.write_text(result.plan.to_json(), encoding="utf-8")
    with pytest.raises(UsageError, match=r"m\.plan\.json would be overwritten"):
        apply_plan(PROTO, path, point=1, output=tmp_path / "m.onnx")
    assert path.read_text(encoding="utf-8") == result.plan.to_json()


def test_a_recipe_needs_data(result: Result) -> None:
    with pytest.raises(UsageError, match="--recipe 'imagenet' says how to read --calib"):
        apply_plan(PROTO, result.plan, recipe="imagenet")
