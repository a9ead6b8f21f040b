"""Figures of quality by their definitions, and models that cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxmpq
from onnxmpq.cost.measure import Effort
from onnxmpq.errors import ValidationError
from onnxmpq.feeds.types import Feeds
from onnxmpq.quality import MOST_PASSES, OutputQuality, Validation, compare, judge, time_side_by_side
from onnxmpq.quality import timing as timing_of
from onnxmpq.quality.comparison import LABELS
from onnxmpq.runtimes import SessionSettings, input_specs, open_session
from tests.graphs import feeds_for, graph, outputs_of, residual_cnn, samples_for, token_model


def noisy(proto: onnx.ModelProto, size: float, seed: int = 0) -> onnx.ModelProto:
    """The model with its weights changed a little."""
    generator = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if len(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor)
            change = size * values.std() * generator.standard_normal(values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values + change, tensor.name))
    return copy


def quality(one: onnx.ModelProto, other: onnx.ModelProto, kinds: dict[str, str], count: int = 12) -> Validation:
    feeds = feeds_for(one, count)
    return compare(one, other, feeds, kinds, settings=SessionSettings(), held_out=True)  # type: ignore[arg-type]


@given(st.floats(1e-4, 1.0), st.integers(0, 100))
def test_figures_follow_their_definitions(size: float, seed: int) -> None:
    proto = residual_cnn()
    other = noisy(proto, size, seed)
    [found] = quality(proto, other, {"y": "logits"}, 6).outputs
    inputs = samples_for(proto, 6)
    a, b = (outputs_of(m, inputs)["y"].astype(np.float64) for m in (proto, other))
    assert found.sqnr_db == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=0.05)
    assert found.cosine == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), abs=1e-4)
    assert found.relative_mse == pytest.approx(((a - b) ** 2).mean() / a.var(), rel=0.02)
    assert found.top1_agreement == pytest.approx((a.argmax(1) == b.argmax(1)).mean(), abs=0.17)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    assert found.kl_nats == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=0.05, abs=1e-6)


def test_a_model_and_itself() -> None:
    found = quality(residual_cnn(), residual_cnn(), {"y": "logits"})
    [output] = found.outputs
    assert output.sqnr_db == float("inf") == found.worst_sqnr_db
    assert (output.cosine, output.kl_nats, output.top1_agreement) == (pytest.approx(1.0), pytest.approx(0.0), 1.0)
    assert not output.levels_disagree


def test_values_have_no_classes() -> None:
    found = quality(token_model(), noisy(token_model(), 0.01), {"logits": "logits", "pooled": "values"})
    logits, pooled = found.outputs
    assert logits.kl_nats is not None and pooled.kl_nats is None and pooled.top1_agreement is None
    assert found.worst_sqnr_db == min(logits.sqnr_db, pooled.sqnr_db)


@pytest.mark.parametrize("better", ["sqnr_db", "sqnr_unfused_db"])
def test_a_difference_between_optimisation_levels_is_flagged(better: str) -> None:
    figures = {"sqnr_db": 20.0, "sqnr_unfused_db": 20.0, better: 30.0}
    assert OutputQuality("y", "values", cosine=1.0, relative_mse=0.0, **figures).levels_disagree


def test_other_interfaces_are_refused() -> None:
    other = graph("y = MatMul (x, w)", "float[N, 8] x", "float[N, 4] y", "float[8, 4] w")
    renamed = graph("z = MatMul (x, w)", "float[N, 8] x", "float[N, 4] z", "float[8, 4] w")
    with pytest.raises(ValidationError, match="different outputs"):
        quality(other, renamed, {})
    with pytest.raises(ValidationError, match="different inputs"):
        quality(token_model(), other, {})


def test_files_are_compared_side_by_side(tmp_path: Path, quick_effort: object) -> None:
    proto = residual_cnn()
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, model in zip(paths, (proto, noisy(proto, 0.05)), strict=True):
        onnx.save_model(model, path)
    found = onnxmpq.validate(*paths, feeds_for(proto, 4))
    assert found.timing is not None and found.timing.original_s > 0 and found.timing.ratio > 0
    assert found.outputs[0].kind == "logits"
    assert 10 < found.worst_sqnr_db < 60


@pytest.mark.parametrize(("calm", "passes"), [(1, 2), (9, MOST_PASSES)])
def test_an_unsteady_measurement_goes_on(calm: int, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of noisy rounds, then from some pass on many quiet ones; there is no limit that has to be decided."""
    done: list[int] = []

    def rounds(function: object, *_: object, **__: object) -> np.ndarray:
        done.extend([1] if function is timing_of._side_by_side else [])
        noisy, quiet = np.array([[1.0, 1.0, 1.0], [0.2, 0.5, 0.9]]), np.repeat([[1.0], [0.5]], 60, axis=1)
        return quiet if len(done) > calm else noisy

    monkeypatch.setattr(timing_of, "timed", rounds)
    proto = residual_cnn()
    timing = time_side_by_side(proto, proto, feeds_for(proto, 1), SessionSettings(), Effort(seconds=0.01, runs=1))
    assert len(done) == passes
    assert timing.unsteady == (passes == MOST_PASSES)


def test_infinity_in_both_is_no_error_and_in_the_result_alone_is() -> None:
    proto = graph("m = Where (k, x, inf)  y = Add (m, b)", "bool[N, 4] k, float[N, 4] x", "float[N, 4] y", "float[4] b")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(-np.inf, np.float32), "inf"))
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    bias = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(bias * np.float32(1.01), "b"))
    mask = np.arange(24).reshape(6, 4) % 3 > 0
    arrays = {"k": mask, "x": np.ones((6, 4), np.float32)}
    specs = input_specs(open_session(proto))
    [found] = compare(
        proto, other, Feeds(arrays, specs, "made up"), {}, settings=SessionSettings(), held_out=True
    ).outputs
    signal, noise = (float(np.square(np.where(mask, v, 0)).sum()) for v in (1 + bias, np.float32(0.01) * bias))
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.1)
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(bias * np.float32(np.inf), "b"))
    [found] = compare(
        proto, other, Feeds(arrays, specs, "made up"), {}, settings=SessionSettings(), held_out=True
    ).outputs
    assert not np.isfinite(found.relative_mse)
    assert judge(Validation((found,), 6, True)).level == "bad"


def test_integers_are_judged_by_the_share_that_is_equal() -> None:
    body = "s = MatMul (x, w)  c = ArgMax <axis = 1, keepdims = 0> (s)  y = Softmax (s)"
    proto = graph(body, "float[N, 8] x", "int64[N] c, float[N, 4] y", "float[8, 4] w")
    same, other = (quality(proto, noisy(proto, size), {"y": "probabilities"}, 40) for size in (0.0, 0.5))
    assert [o.kind for o in same.outputs] == [LABELS, "probabilities"]
    labels, scores = other.outputs
    assert same.outputs[0].top1_agreement == 1.0 and same.outputs[0].relative_mse == 0.0
    assert labels.top1_agreement == scores.top1_agreement == pytest.approx(1.0 - labels.relative_mse)
    assert other.worst_sqnr_db == scores.sqnr_db
    verdict = judge(Validation((replace(labels, top1_agreement=0.2),), 40, True))
    assert verdict.level == "bad" and "20% of the values of output c on 40 held-out samples" in verdict.reasons[0]
    assert judge(Validation((same.outputs[0],), 40, True)).level == "good"


def test_random_outputs_are_left_out() -> None:
    proto = graph(
        "n = RandomNormalLike (x)  y = Add (x, n)  z = Relu (x)", "float[N, 4] x", "float[N, 4] y, float[N, 4] z"
    )
    assert [o.name for o in quality(proto, proto, {"y": "random"}).outputs] == ["z"]
