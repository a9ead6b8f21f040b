"""Inputs of the shapes that are timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.cost.mixed import mean_times
from onnxmpq.errors import UsageError
from onnxmpq.feeds import Feeds, InputSpec, in_words, load_feeds, parse_shapes, shares_of
from onnxmpq.feeds.timed import Share, at_step, with_shapes
from onnxmpq.feeds.types import TokenRun
from onnxmpq.quality import Timing
from onnxmpq.runtimes import KernelTimes, SessionSettings
from tests.conftest import QUICK
from tests.graphs import residual_cnn, samples_for
from tests.tables import int8_pays

IDS, MASK = (InputSpec(n, np.dtype("int64"), ("N", "T")) for n in ("ids", "mask"))
FEATURES = InputSpec("x", np.dtype("float32"), ("N", 3, None))


def feeds() -> Feeds:
    arrays = {"ids": np.arange(6).reshape(2, 3), "mask": np.ones((2, 3), np.int64)}
    return load_feeds(arrays, [IDS, MASK])


def test_values_are_repeated_or_cut_and_named_axes_follow() -> None:
    inputs = with_shapes(feeds(), {"ids": (2, 5)}).batch([0])
    assert inputs["ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]
    assert inputs["mask"].shape == (2, 5)
    assert with_shapes(feeds(), {"ids": (1, 2)}).batch([0])["ids"].tolist() == [[0, 1]]
    given = feeds()
    assert with_shapes(given, {}) is given


def test_axes_without_a_name_are_set_one_by_one() -> None:
    found = load_feeds({"x": np.ones((4, 3, 7), np.float32)}, [FEATURES])
    assert with_shapes(found, {"x": (2, 3, 9)}).batch([0])["x"].shape == (2, 3, 9)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"id": (1, 2)}, "no such input; did you mean ids?"),
        ({"ids": (1, 2, 3)}, "the model declares NxT"),
        ({"ids": (1, 2), "mask": (1, 3)}, "axis 'T' is both 2 and 3"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_shapes(feeds(), shapes)
    assert message in str(caught.value)
    with pytest.raises(UsageError, match="the model declares Nx3x"):
        with_shapes(load_feeds({"x": np.ones((4, 3, 7), np.float32)}, [FEATURES]), {"x": (1, 4, 7)})


def test_spellings() -> None:
    assert parse_shapes(["a=b=8x3", "c=1x2@0.5, 1x4"]) == {"a=b": "8x3", "c": "1x2@0.5,1x4"}
    assert shares_of({"x": "2x3", "y": [4]}) == (Share(1.0, {"x": (2, 3), "y": (4,)}),)
    assert shares_of(None) == shares_of({}) == ()
    short, long = shares_of({"ids": "1x16@3,1x128@1", "x": "5"})
    assert (short, long) == (Share(0.75, {"ids": (1, 16), "x": (5,)}), Share(0.25, {"ids": (1, 128), "x": (5,)}))
    assert in_words((short, long)) == "ids=1x16 x=5 (75%), ids=1x128 x=5 (25%)"
    assert in_words(shares_of({"x": "2x3"})) == "x=2x3" and in_words(()) == ""
    for wrong in (["x"], ["x=3x"], ["x=0x3"], ["=3"], ["x=1", "x=2"], ["x=-1"], ["x=1@"], ["x=1@a"], ["x=1,,2"]):
        with pytest.raises(UsageError, match="--shape"):
            parse_shapes(wrong)
    for unequal in ({"a": "1,2", "b": "1,2,3"}, {"a": "1@1,2@2", "b": "1@2,2@1"}, {"a": "1@0,2@0.0"}):
        with pytest.raises(UsageError, match="--shape"):
            shares_of(unequal)


def test_means_by_share() -> None:
    """Of kernels, and of whole runs with their interval."""
    fast = KernelTimes({"a": 1.0}, {"t": 2.0}, 3.0, {"a": 1}, {"t": 1}, 1, {"a": frozenset({"Conv"})})
    slow = KernelTimes({"a": 3.0, "b": 4.0}, {}, 1.0, {"a": 2, "b": 1}, {}, 2, {"a": frozenset({"Gemm"})})
    found = mean_times([(0.75, fast), (0.25, slow)])
    assert found.region_s == {"a": 1.5, "b": 1.0} and found.tensor_s == {"t": 1.5} and found.other_s == 2.5
    assert found.region_kernels == {"a": 2, "b": 1} and found.other_kernels == 2
    assert found.operators == {"a": frozenset({"Conv", "Gemm"})}
    one, other = Timing(1.0, 0.5, 0.5, 1, 0.4, 0.6, 9), Timing(4.0, 4.0, 1.0, 1, 0.9, 1.1, 5)
    assert Timing.mean([(1.0, one)]) is one
    mean = Timing.mean([(0.75, one), (0.25, other)])
    assert (mean.original_s, mean.result_s, mean.rounds) == (1.75, pytest.approx(1.375), 5)
    assert mean.ratio == pytest.approx(1.375 / 1.75)
    assert (mean.ratio_low, mean.ratio_high) == (pytest.approx(1.2 / 1.75), pytest.approx(1.55 / 1.75))


def test_the_latency_is_that_of_the_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are timed on it, and the plan says so; quality is judged on the samples as they are."""
    from onnxmpq.quality import timing  # noqa: PLC0415

    seen: list[tuple[int, ...]] = []
    before = timing.run

    def noted(session: object, inputs: dict[str, np.ndarray], *more: object) -> object:
        seen.append(inputs["x"].shape)
        return before(session, inputs, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "timed", lambda f, *a, **_: f(*[getattr(x, "here", lambda x=x: x)() for x in a]))
    monkeypatch.setattr(timing, "run", noted)
    model = tmp_path / "m.onnx"
    onnx.save_model(residual_cnn(), model)
    options = {"calibration": samples_for(residual_cnn(), 8), "effort": QUICK, "without": ["gptq", "descent"]}
    table = int8_pays(model, tmp_path)
    document = json.loads(table.read_text())
    document["meta"]["shape"] = "x=4x3x16x16"
    table.write_text(json.dumps(document))
    result = onnxmpq.convert(model, latency="80%", cost_table=table, shape={"x": "4x3x16x16"}, **options)
    assert seen and set(seen) == {(4, 3, 16, 16)}
    assert "latency is that of x=4x3x16x16" in result.plan.notes
    assert result.report.validation.samples == 2
    found = onnxmpq.validate(model, model, load_feeds(samples_for(residual_cnn(), 4), _specs()), SessionSettings())
    assert found.timing is not None and seen[-1] == (1, 3, 16, 16)


def _specs() -> list[InputSpec]:
    return [InputSpec("x", np.dtype("float32"), ("N", 3, 16, 16))]


def test_several_shapes_are_one_budget(tmp_path: Path) -> None:
    """Timed here: plans on both shapes, and the result."""
    model = tmp_path / "m.onnx"
    onnx.save_model(residual_cnn(), model)
    result = onnxmpq.convert(
        model,
        size="60%",
        calibration=samples_for(residual_cnn(), 8),
        shape={"x": "1x3x16x16@0.5,6x3x16x16@0.5"},
        effort=QUICK,
        without=["gptq", "descent"],
        guard=False,
        best_effort=True,
    )
    assert "latency is that of x=1x3x16x16 (50%), x=6x3x16x16 (50%)" in result.plan.notes
    assert result.report.validation.timing is not None
    with pytest.raises(UsageError, match="several shapes are for measured targets"):
        options: dict[str, Any] = {"target": "edge-npu", "shape": {"x": "1x3x16x16,2x3x16x16"}}
        onnxmpq.convert(model, size="60%", calibration=samples_for(residual_cnn(), 8), **options)


def test_a_phase_is_for_decoders_and_for_samples_that_have_it() -> None:
    given = feeds()
    assert at_step(given, None) is given
    with pytest.raises(UsageError, match="--step decode: the model has no cache"):
        at_step(given, "decode")
    runs = replace(given, runs=(TokenRun("decode", 3, 1), TokenRun("decode", 3, 2)))
    with pytest.raises(UsageError, match="--step prefill: no sample is of that phase"):
        at_step(runs, "prefill")
    assert at_step(runs, None).step == "decode"
    assert runs.take([1]).runs == (TokenRun("decode", 3, 2),)


def test_an_axis_that_is_a_sum_follows_its_parts() -> None:
    cache = InputSpec("cache", np.dtype("float32"), ("N", "past", 2))
    mask = InputSpec("mask", np.dtype("int64"), ("N", "past + T"))
    arrays = {"ids": np.zeros((1, 1), np.int64), "mask": np.ones((1, 4), np.int64), "cache": np.ones((1, 3, 2))}
    given = load_feeds(arrays, [IDS, mask, cache])
    inputs = with_shapes(given, {"cache": (1, 9, 2)}).batch([0])
    assert inputs["mask"].shape == (1, 10) and inputs["ids"].shape == (1, 1)
