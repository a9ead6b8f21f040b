"""int8 weights that saturate 16-bit sums of onnxruntime's x86 kernels (`rounding/overflow.py` has the bound)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxmpq.lint.common import same_grid
from onnxmpq.lint.graph import MOVERS, Graph, Quantizer, integer, label
from onnxmpq.lint.onnxruntime import EIGHT_BIT, result_fuses
from onnxmpq.lint.types import Hit
from onnxmpq.rounding import LARGEST_CODE, overflowing_channels
from onnxmpq.runtimes import kernel_rows, sums_neighbours

_AT_MOST = {"Sigmoid": 1.0, "HardSigmoid": 1.0, "Softmax": 1.0, "Tanh": 1.0}
_TIE = 1e-3  # of a step: values that near to the middle of two steps may round up in some kernel
_CLIP_SLACK = 2e-7  # a Clip that reaches this near to the end of a quantizer's range is dropped (ClipQuantRewrite)
_DEPTH = 32  # nodes looked back through
CODE_OFFSET = 128  # onnxruntime on x86 turns pairs of int8 into uint8, and their codes with them
_REMEDY = 'keep their weights smaller, or set the session entry "session.x64quantprecision" to "1"'


@dataclass(frozen=True)
class _IntegerOperator:
    """Inputs of an operator that computes on integers: its activation (None: quantized inside, to uint8), its weights,
    and the operator whose weight they are laid out as."""

    data: int | None
    weights: tuple[int, ...]
    layout: str


@dataclass(frozen=True)
class IntegerLayer:
    """A node that onnxruntime computes with uint8 activations and int8 weights.

    layout: the operator whose weight its weights are laid out as (`kernel_rows`). weights: tensors of int8. code: the
    largest activation code that the graph allows. data: the DQ node whose codes the layer reads; None for an operator
    on integers.
    """

    node: onnx.NodeProto
    layout: str
    weights: tuple[str, ...]
    code: int
    data: Quantizer | None = None


_OPERATORS = {
    "DynamicQuantizeLSTM": _IntegerOperator(None, (1, 2), "MatMul"),
    "DynamicQuantizeMatMul": _IntegerOperator(None, (1,), "MatMul"),
    "MatMulInteger": _IntegerOperator(0, (1,), "MatMul"),
    "MatMulIntegerToFloat": _IntegerOperator(0, (1,), "MatMul"),
    "QAttention": _IntegerOperator(0, (1,), "MatMul"),
    "QGemm": _IntegerOperator(0, (3,), "Gemm"),
    "QLinearConv": _IntegerOperator(0, (3,), "Conv"),
    "QLinearMatMul": _IntegerOperator(0, (3,), "MatMul"),
}


def overflow(graph: Graph) -> Iterator[Hit]:
    """No two neighbouring products of uint8 activations and int8 weights exceed 16 bits, whatever the input: on x86
    CPUs without VNNI (Intel before Cascade Lake, AMD before Zen 4), MatMul, Gemm and Conv saturate there and compute
    something else than elsewhere (overflow.md).

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/x86_64/QgemmU8X8KernelAvx2.S
    """
    for layer in integer_layers(graph):
        rows = [r for tensor in layer.weights if (r := summed_rows(graph, layer, tensor)) is not None]
        wrong = sum(int(np.count_nonzero(overflowing_channels(r, layer.code))) for r in rows)
        if wrong:
            yield (
                label(layer.node),
                f"{wrong} of {sum(map(len, rows))} channels can exceed 16 bits on x86 CPUs without VNNI (activation "
                f"codes up to {layer.code}) and saturate; {_REMEDY}",
            )


def integer_layers(graph: Graph) -> Iterator[IntegerLayer]:
    """Every node that may become such a kernel, those between Q/DQ pairs first; depthwise convolutions too."""
    for node in graph.layers():
        data = graph.dequantizer_of(node.input[0])
        code = None if data is None else _largest_code_read(graph, data)
        if code is None or not _may_fuse(graph, node):
            continue
        weight = graph.dequantizer_of(node.input[1], frozenset({"Identity"}))
        if weight is not None and weight.element == TensorProto.INT8 and not weight.block_size:
            yield IntegerLayer(node, node.op_type, (weight.data,), code, data)
    for node in graph.nodes:
        operator = _OPERATORS.get(node.op_type)
        if operator is None or len(node.input) <= max(operator.weights):
            continue
        if operator.data is None or graph.element(node.input[operator.data]) == TensorProto.UINT8:
            weights = [node.input[slot] for slot in operator.weights]
            signed = tuple(t for t in weights if graph.element(t) == TensorProto.INT8)
            yield IntegerLayer(node, operator.layout, signed, LARGEST_CODE)


def summed_rows(graph: Graph, layer: IntegerLayer, tensor: str) -> NDArray[np.generic] | None:
    """A layer's weights [O, K] in the kernel's order; None where they are not at hand or no neighbours are summed."""
    values = graph.integers(tensor)
    if values is None or not sums_neighbours(layer.layout, values.shape, integer(layer.node, "group", 1)):
        return None
    return kernel_rows(layer.layout, values, trans_b=bool(integer(layer.node, "transB", 0)))


def _may_fuse(graph: Graph, node: onnx.NodeProto) -> bool:
    """True if the layer becomes an integer kernel in some version; otherwise it computes in float32."""
    if node.op_type == "Conv":
        return result_fuses(graph, node.output[0])
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    return node.op_type != "ConvTranspose" and (not bias or graph.dequantizer_of(bias, frozenset()) is not None)


def _largest_code_read(graph: Graph, data: Quantizer) -> int | None:
    """The largest code of a DQ node's input that can reach a kernel, as uint8; None where none does.

    int8 pairs become uint8 on x86 where they have a zero point and one reader (`QDQS8ToU8Transformer`); all others
    are not fused there, and compute in float32.
    """
    if data.element not in EIGHT_BIT:
        return None
    code = _largest_code(graph, data)
    if data.element == TensorProto.UINT8:
        return code
    alone = all(len(graph.uses.get(t, ())) == 1 for t in (data.data, data.result))
    return code + CODE_OFFSET if data.zero_point and alone else None


def _largest_code(graph: Graph, data: Quantizer) -> int:
    """By the graph's structure, for every input: of what a DQ node reads."""
    ceiling = 127 if data.element == TensorProto.INT8 else 255
    source = _first_quantizer(graph, data)
    scale = graph.value(source.scale) if source is not None else None
    zero = graph.value(source.zero_point) if source is not None and source.zero_point else np.zeros(1)
    if source is None or scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return ceiling
    step, offset, upper = float(scale.ravel()[0]), float(zero.ravel()[0]), _upper(graph, source.data)
    if not (math.isfinite(step) and step > 0 and math.isfinite(upper / step)):
        return ceiling
    if step * (ceiling - offset) - upper <= _CLIP_SLACK:
        return ceiling
    code = math.floor(upper / step + 0.5 + _TIE) + int(offset)
    return min(max(code, int(offset)), ceiling)  # padding of a Conv has the zero point's code


def _first_quantizer(graph: Graph, data: Quantizer) -> Quantizer | None:
    """The Q node that made the codes, the first of several pairs of one grid; None where pairs of several grids follow
    each other, which the runtime joins to one."""
    grid = data
    for _ in range(_DEPTH):
        source = graph.quantizer_of(data.data)
        if source is None or not source.quantizes or not same_grid(graph, source, grid):
            return None
        before = graph.quantizer_of(source.data)
        if before is None:
            return source
        data = before
    return None


def _upper(graph: Graph, tensor: str, depth: int = 0) -> float:
    """A bound that no value of the tensor exceeds, infinity where the graph does not tell."""
    maker = graph.makers.get(tensor)
    if maker is None or not maker.input or maker.output[0] != tensor or depth > _DEPTH:
        return math.inf
    op = maker.op_type
    if op in _AT_MOST:
        return _AT_MOST[op]
    if op == "Concat":
        return max(_upper(graph, t, depth + 1) for t in maker.input)
    if op not in MOVERS and op not in ("Clip", "Relu"):
        return math.inf
    below = _upper(graph, maker.input[0], depth + 1)
    if op == "Clip":
        return min(below, _limit(graph, maker))
    return max(below, 0.0) if op == "Relu" else below


def _limit(graph: Graph, clip: onnx.NodeProto) -> float:
    """The upper limit of a Clip, an input since opset 11."""
    given = [a.f for a in clip.attribute if a.name == "max"]
    if given:
        return float(given[0])
    values = graph.value(clip.input[2]) if len(clip.input) > 2 and clip.input[2] else None
    found = math.inf if values is None or values.size != 1 else float(values.ravel()[0])
    return found if found == found else math.inf
