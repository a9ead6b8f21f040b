"""The second rounding: never a worse model on the samples that decide, and better where errors pile up."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.errors import UsageError
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtimes import SessionSettings
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Evaluator
from onnxmpq.sensitivity.effects import make_divergence
from onnxmpq.weights import TECHNIQUES, Techniques, compensate, round_weights, without
from tests.graphs import feeds_for, prepared, residual_cnn

SCHEME = SCHEMES["w4"]
FORMAT = SCHEME.weight
assert FORMAT is not None


def build(model: Model, weights: Mapping[str, QuantizedWeight]) -> onnx.ModelProto:
    stored = {(name, weight.format.name): weight for name, weight in weights.items()}
    return DIALECTS["onnxruntime"].rewrite(Rewrite(model, dict.fromkeys(weights, SCHEME), {}, stored, model.roots))


def referee_of(model: Model, feeds: Feeds) -> Evaluator:
    divergence, _ = make_divergence(model, feeds, 1, threads=1, kinds={})
    return Evaluator.of(model, divergence, feeds, SessionSettings())


def nearest(model: Model) -> dict[str, QuantizedWeight]:
    return {r.name: quantize_weight(model.weight(r), FORMAT) for r in model.layers}


@pytest.mark.parametrize("samples", [2, 24], ids=["few_samples", "enough_samples"])
def test_the_result_is_never_worse_on_the_samples_that_decide(samples: int) -> None:
    model = prepared(residual_cnn())
    evaluator = referee_of(model, feeds_for(model.proto, 8, seed=5))
    found = compensate(model, nearest(model), build, feeds_for(model.proto, samples), evaluator.loss, Techniques())
    best = min(found.losses[step] for step in ("first", *found.kept))
    assert best <= found.losses["first"]
    assert all(found.losses[step] > best for step in found.losses if step not in ("first", *found.kept))


def test_a_result_that_does_not_help_is_thrown_away() -> None:
    model = prepared(residual_cnn())
    start = nearest(model)
    asked = itertools.count(1.0)
    found = compensate(model, start, build, feeds_for(model.proto), lambda _: next(asked), Techniques())
    assert found.kept == () and found.biases == {}
    assert all(found.weights[name] is start[name] for name in start)
    assert set(found.losses) == {"first", "cross", "bias-correction"}


def test_rounding_for_the_inputs_and_in_sequence_helps() -> None:
    model = prepared(residual_cnn())
    feeds, evaluator = feeds_for(model.proto, 32), referee_of(model, feeds_for(model.proto, 16, seed=9))
    start = nearest(model)
    formats = {(name, FORMAT.name): FORMAT for name in start}
    first = {name: w for (name, _), w in round_weights(model, formats, feeds, Techniques()).items()}
    assert evaluator.loss(build(model, first)) < evaluator.loss(build(model, start))
    found = compensate(model, first, build, feeds, evaluator.loss, Techniques())
    assert min(found.losses.values()) <= found.losses["first"]


def test_rounding_is_deterministic() -> None:
    model = prepared(residual_cnn())
    formats = {(r.name, FORMAT.name): FORMAT for r in model.layers}
    one, two = (round_weights(model, formats, feeds_for(model.proto), Techniques()) for _ in range(2))
    for key, weight in one.items():
        np.testing.assert_array_equal(weight.codes, two[key].codes)
        np.testing.assert_array_equal(weight.scales, two[key].scales)


def test_techniques_are_switched_off_by_name() -> None:
    assert without(()).method == "best"
    assert without(["descent"]).method == "gptq"
    assert without(["gptq"]).method == "nearest" and "cross" not in without(["gptq"])
    model = prepared(residual_cnn())
    assert round_weights(model, {}, feeds_for(model.proto), without(["gptq"])) == {}
    found = compensate(
        model, nearest(model), build, feeds_for(model.proto), referee_of(model, feeds_for(model.proto)).loss,
        without(TECHNIQUES),
    )  # fmt: skip
    assert set(found.losses) == {"first"}


def test_an_unknown_technique_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"'gtpq'; did you mean gptq"):
        without(["gtpq"])
