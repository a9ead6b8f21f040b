"""A layer's weight in the order of the kernels, against a convolution written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.model import LayerWeight
from onnxmpq.runtimes.onnxruntime.kernel_order import kernel_columns, kernel_rows, sums_neighbours
from tests.graphs import conv_relu, prepared, token_model


@pytest.mark.parametrize("window", [(1,), (3,), (1, 1), (3, 2), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_convolution_walks_window_positions_first(window: tuple[int, ...], channels: int) -> None:
    weight = np.arange(2 * channels * int(np.prod(window))).reshape(2, channels, *window)
    rows = kernel_rows("Conv", weight)
    assert rows is not None
    expected = [[o[(c, *at)] for at in np.ndindex(*window) for c in range(channels)] for o in weight]
    assert rows.tolist() == expected
    place = LayerWeight("conv", "w", 1, weight.shape)
    assert np.array_equal(place.matrix(weight)[:, kernel_columns("Conv", place)], rows)


def test_products_walk_what_they_sum_over() -> None:
    stored = np.arange(12).reshape(3, 4)
    for op in ("MatMul", "Gemm"):
        assert np.array_equal(kernel_rows(op, stored), stored.T)
    assert np.array_equal(kernel_rows("Gemm", stored, trans_b=True), stored)
    stack = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(kernel_rows("MatMul", stack), np.concatenate([stack[0].T, stack[1].T]))
    assert np.array_equal(kernel_rows("MatMul", np.arange(3)), [[0, 1, 2]])


@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm", "Relu"])
def test_shapes_that_are_no_weight(op: str) -> None:
    assert kernel_rows(op, np.zeros(())) is None
    assert kernel_rows(op, np.zeros((0, 4, 1))) is None
    assert kernel_rows("Conv", np.zeros((2, 3))) is None
    assert kernel_rows("Relu", np.zeros((2, 3))) is None


@pytest.mark.parametrize("proto", [conv_relu(), token_model()], ids=["conv", "tokens"])
def test_the_matrix_view_has_the_same_columns(proto: object) -> None:
    """For regions of a prepared model, whose weights are kept as [O, K] elsewhere."""
    model = prepared(proto)  # type: ignore[arg-type]
    layers = [r for r in model.layers if r.op_type in ("Conv", "MatMul", "Gemm")]
    assert layers
    for region in layers:
        matrix = model.weight(region)
        trans_b = region.op_type == "Gemm" and not region.params.weights[0].swapped
        expected = kernel_rows(region.op_type, region.params.stored(matrix), trans_b=trans_b)
        assert np.array_equal(matrix[:, kernel_columns(region.op_type, region.params.weights[0])], expected)


def test_depthwise_convolutions_sum_no_neighbours() -> None:
    assert not sums_neighbours("Conv", (16, 1, 3, 3), 16)
    assert not sums_neighbours("Conv", (1, 1, 3, 3), 1)
    assert sums_neighbours("Conv", (32, 1, 3, 3), 16)
    assert sums_neighbours("Conv", (16, 2, 3, 3), 8)
    assert sums_neighbours("MatMul", (1, 1), 1)
