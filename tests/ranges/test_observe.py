"""Ranges are those of the tensors in the fp32 model, whatever the batch and however many tensors at a time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.execution import MemoryBudget
from onnxmpq.ranges import observe
from tests.graphs import feeds_for, graph, outputs_of, prepared, residual_cnn, token_model

TENSORS = ["x", "a", "r1", "s", "g"]


def test_extremes_and_shapes_are_those_of_the_tensors() -> None:
    model, feeds = prepared(residual_cnn()), feeds_for(residual_cnn(), 6)
    observation = observe(model, feeds, TENSORS)
    exposed = residual_cnn()
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=t) for t in TENSORS[1:])
    values = {"x": feeds.arrays["x"], **outputs_of(exposed, feeds.arrays, optimize=False)}
    for tensor in TENSORS:
        found = observation.histograms[tensor]
        assert (found.low, found.high) == pytest.approx((values[tensor].min(), values[tensor].max()), abs=1e-5)
        assert found.counts.sum() == values[tensor].size
        assert observation.shapes[tensor] == (1, *values[tensor].shape[1:])


def test_infinity_inside_is_not_counted_and_remembered() -> None:
    proto = graph("a = Exp (x)  b = MatMul (a, w)  y = Tanh (b)", "float[N, 8] x", "float[N, 4] y", "float[8, 4] w")
    feeds = feeds_for(proto)
    feeds.arrays["x"][1, 2] = 1e4
    histograms = observe(prepared(proto), feeds, ["x", "a"]).histograms
    assert (histograms["x"].unbounded, histograms["a"].unbounded) == (False, True)
    assert histograms["a"].counts.sum() == feeds.arrays["x"].size - 1
    assert np.isfinite([histograms["a"].low, histograms["a"].high]).all()


def test_outputs_without_a_finite_value_are_found_in_every_sample() -> None:
    proto = graph("a = MatMul (x, w)  y = Log (a)", "float[N, 2] x", "float[N, 2] y", "float[2, 2] w")
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "w"))
    feeds = feeds_for(proto, 4)
    feeds.arrays["x"][:] = 1.0
    assert observe(prepared(proto), feeds, ["a"]).histograms["a"].counts.sum() == 8
    feeds.arrays["x"][2, 0] = -1.0
    assert observe(prepared(proto), feeds, ["a"]).histograms["a"].counts.sum() == 8
    feeds.arrays["x"][2] = -1.0
    with pytest.raises(CalibrationError, match=r"sample 2: NaN first appears at node '\w+' \(Log\)"):
        observe(prepared(proto), feeds, ["a"])


def test_the_same_however_little_memory_is_allowed() -> None:
    model, feeds = prepared(residual_cnn()), feeds_for(residual_cnn(), 3)
    together = observe(model, feeds, TENSORS)
    runs: list[int] = []
    apart = observe(model, feeds, TENSORS, memory=MemoryBudget(shown=1), tick=runs.append)
    assert len(runs) == len(TENSORS) * len(feeds)  # one tensor at a time
    for tensor in TENSORS:
        np.testing.assert_array_equal(apart.histograms[tensor].counts, together.histograms[tensor].counts)


def test_a_tensor_is_observed_alone_as_with_others_on_any_number_of_threads() -> None:
    proto = token_model()
    model, feeds = prepared(proto), feeds_for(proto, 5)
    together = observe(model, feeds, ["h", "m"])
    alone = observe(model, feeds, ["m"], threads=3)
    assert list(alone.histograms) == ["m"]
    one, other = together.histograms["m"], alone.histograms["m"]
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.limit, one.low, one.high) == (other.limit, other.low, other.high)
