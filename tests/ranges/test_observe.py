"""Ranges are those of the tensors in the fp32 model, whatever the batch and however many tensors at a time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.ranges import observe, tensor_shapes
from onnxmpq.ranges.observe import chunks
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


def test_several_inputs_and_dynamic_axes() -> None:
    model, feeds = prepared(token_model()), feeds_for(token_model())
    assert tensor_shapes(model, feeds, ["h", "m"]) == {"h": (1, 5, 32), "m": (1, 5, 64)}


def test_a_model_that_computes_infinity_is_named() -> None:
    proto = graph("a = Exp (x)  b = MatMul (a, w)  y = Tanh (b)", "float[N, 8] x", "float[N, 4] y", "float[8, 4] w")
    feeds = feeds_for(proto)
    feeds.arrays["x"][1, 2] = 1e4
    with pytest.raises(CalibrationError, match="tensor 'a'"):
        observe(prepared(proto), feeds, ["a", "b"])


def test_chunks_hold_every_tensor_once_within_the_limit() -> None:
    shapes = {f"t{i}": (1, 10 * i) for i in range(1, 30)}
    parts = list(chunks(shapes, 1, 2000))
    assert [t for part in parts for t in part] == list(shapes)
    for part in parts:
        assert len(part) == 1 or sum(4 * int(np.prod(shapes[t])) for t in part) <= 2000
