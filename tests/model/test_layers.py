"""Weights of layers: their matrix view, and what is broadcast over them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.model import LayerWeight
from tests.graphs import graph, prepared


@st.composite
def weights(draw: st.DrawFn) -> LayerWeight:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    swapped = len(shape) > 1 and draw(st.booleans())
    return LayerWeight("layer", "w", 1, shape, draw(st.integers(0, len(shape) - 1)), swapped)


@given(weights())
def test_stored_is_the_inverse_of_matrix(weight: LayerWeight) -> None:
    values = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32)
    matrix = weight.matrix(values)
    assert matrix.shape == (weight.out_channels, weight.fan_in) and matrix.size == weight.parameters
    np.testing.assert_array_equal(weight.stored(matrix), values)
    assert matrix.flags.c_contiguous and weight.stored(matrix).flags.c_contiguous


@given(weights())
def test_scales_reach_the_rows_of_the_matrix(weight: LayerWeight) -> None:
    values = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32)
    scales = np.arange(1, weight.out_channels + 1, dtype=np.float32)
    scaled = values * scales.reshape(weight.scale_shape)
    np.testing.assert_array_equal(weight.matrix(scaled), weight.matrix(values) * scales[:, None])
    if weight.channel_axis is not None:
        expected = [1] * len(weight.shape)
        expected[weight.channel_axis] = weight.out_channels
        assert weight.scale_shape == tuple(expected)


def test_keys_of_further_weights_are_no_names_of_nodes() -> None:
    proto = graph(
        "a = RNN <hidden_size = 8> (x, w, r)  b = Squeeze (a, one)  y = RNN <hidden_size = 8> (b, w, r)",
        "float[T, N, 8] x",
        "float[T, 1, N, 8] y",
        "float[1, 8, 8] w, float[1, 8, 8] r, int64[1] one = {1}",
    )
    proto.graph.node[0].name, proto.graph.node[2].name = "rnn", "rnn/2"
    model = prepared(proto)
    assert list(model.weights) == ["rnn", "rnn/2_", "rnn/2", "rnn/2/2"]
    assert [place.tensor for _, place in model.weights.values()] == ["w", "r", "w", "r"]
