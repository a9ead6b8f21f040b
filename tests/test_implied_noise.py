"""The error that scales imply is the error of a sound graph, and is exceeded by one whose scale or kernel is wrong."""

from __future__ import annotations

import onnx
import pytest

from tests.graphs import Array, graph, samples_for
from tests.implied_noise import implied_sqnr_db
from tests.outcomes import worst_sqnr_db

PLAIN = graph("m = MatMul (x, w)  y = Relu (m)", "float[N, 32] x", "float[N, 16] y", "float[32, 16] w")
QUANTIZED = graph(
    """q = QuantizeLinear (x, sx, zx)  d = DequantizeLinear (q, sx, zx)  m = MatMul (d, w)
       r = QuantizeLinear (m, sm, zm)  s = DequantizeLinear (r, sm, zm)  y = Relu (s)""",
    "float[N, 32] x",
    "float[N, 16] y",
    "float[32, 16] w, float sx = {0.03}, uint8 zx = {128}, float sm = {0.03}, uint8 zm = {128}",
)


def samples() -> list[dict[str, Array]]:
    values = samples_for(PLAIN, 64)["x"]
    return [{"x": values[i : i + 8]} for i in range(0, 64, 8)]


def test_a_sound_graph_has_the_error_that_its_scales_imply() -> None:
    expected = implied_sqnr_db(PLAIN, QUANTIZED, samples())
    assert 25.0 < expected < 45.0
    assert worst_sqnr_db(PLAIN, QUANTIZED, samples()) == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize("name", ["zx", "zm"])
def test_a_wrong_zero_point_makes_a_larger_error(name: str) -> None:
    """The quantizer's, which the range follows, and not that of its DequantizeLinear."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(QUANTIZED)
    for node in wrong.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[2] == name:
            node.input[2] = "other"
    wrong.graph.initializer.append(onnx.helper.make_tensor("other", onnx.TensorProto.UINT8, [], [132]))
    assert worst_sqnr_db(PLAIN, wrong, samples()) < implied_sqnr_db(PLAIN, wrong, samples()) - 6.0


def test_clipping_is_part_of_what_is_implied() -> None:
    narrow = onnx.ModelProto()
    narrow.CopyFrom(QUANTIZED)
    for tensor in narrow.graph.initializer:
        if tensor.name == "sx":
            tensor.CopyFrom(onnx.helper.make_tensor("sx", onnx.TensorProto.FLOAT, [], [0.004]))
    expected = implied_sqnr_db(PLAIN, narrow, samples())
    assert expected < 15.0
    assert worst_sqnr_db(PLAIN, narrow, samples()) == pytest.approx(expected, abs=1.5)
