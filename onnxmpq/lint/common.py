"""Rules that hold for more than one dialect."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from onnxmpq.lint.graph import (
    DEQUANTIZE,
    FLOAT8,
    FOUR_BIT,
    LAYERS,
    QUANTIZE,
    Graph,
    Quantizer,
    integer,
    label,
    type_name,
)
from onnxmpq.lint.types import Hit
from onnxmpq.model import shell

STANDARD_DOMAINS = ("", "ai.onnx")
BLOCK_OPSET, CHANNEL_OPSET = 21, 13
_SIXTEEN_BIT = frozenset({TensorProto.INT16, TensorProto.UINT16})
TYPE_OPSETS = (  # element types, and the opset whose QuantizeLinear and DequantizeLinear first take them
    (FLOAT8, 19),
    (FOUR_BIT | _SIXTEEN_BIT, 21),
    (frozenset({TensorProto.FLOAT4E2M1}), 23),
)


def valid(graph: Graph) -> Iterator[Hit]:
    """onnx.checker accepts the model: operators, attributes, types and shapes fit its opset.

    Source: https://onnx.ai/onnx/api/checker.html
    """
    if graph.outer is not None:
        return
    try:
        onnx.checker.check_model(shell(graph.model), full_check=True)
    except Exception as error:  # ValidationError, InferenceError, ValueError, TypeError, by the kind of damage
        yield "", " ".join(str(error).split())[:300] or type(error).__name__


def opset(graph: Graph) -> Iterator[Hit]:
    """The opset holds the types and granularities used: per channel 13, float8 19, 4 and 16 bits and blocks 21,
    float4 23.

    Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """
    for q in graph.quantizers:
        node = graph.makers[q.result]
        if node.domain not in STANDARD_DOMAINS or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for needed, what in _needs(graph, q):
            if graph.opset < needed:
                yield q.name, f"{what} needs opset {needed}, the model has {graph.opset}: export it with a newer opset"


def _needs(graph: Graph, q: Quantizer) -> Iterator[tuple[int, str]]:
    for elements, version in TYPE_OPSETS:
        if q.element in elements:
            yield version, type_name(q.element)
    if q.block_size:
        yield BLOCK_OPSET, "block_size"
    elif graph.shape(q.scale) not in ((), (1,), None):
        yield CHANNEL_OPSET, "a scale per channel"


def finite_scale(graph: Graph) -> Iterator[Hit]:
    """Scales are finite, and where values are divided by them, not zero.

    Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """
    for q in graph.quantizers:
        scale = graph.value(q.scale)
        if scale is None or scale.size == 0:
            continue
        wrong = scale[~np.isfinite(scale) | (q.quantizes & (scale == 0))]
        if wrong.size:
            yield q.name, f"{wrong.size} of {scale.size} scales cannot be used (the first is {wrong[0]:g})"


def scale_count(graph: Graph) -> Iterator[Hit]:
    """There is one scale for the tensor, one per channel of `axis`, or one per block along one dimension; and as many
    zero points.

    Source: https://github.com/onnx/onnx-tensorrt/blob/main/onnxOpImporters.cpp
    """
    for q in graph.quantizers:
        scales, zeros = graph.shape(q.scale), graph.shape(q.zero_point) if q.zero_point else None
        if scales is None or None in scales:
            continue
        count = int(np.prod([d or 0 for d in scales]))
        if zeros is not None and None not in zeros and int(np.prod([d or 0 for d in zeros])) != count:
            yield q.name, f"{count} scales but zero points of shape {list(zeros)}"
        data = graph.shape(q.data)
        if count != 1 and data is not None and None not in data:
            yield from (
                (q.name, text) for text in _misfit(q, tuple(d or 0 for d in scales), tuple(d or 0 for d in data))
            )


def _misfit(q: Quantizer, scales: tuple[int, ...], data: tuple[int, ...]) -> Iterator[str]:
    axis = q.axis + len(data) if q.axis < 0 else q.axis
    if not 0 <= axis < len(data):
        yield f"axis {q.axis} is outside a tensor of shape {list(data)}"
    elif len(scales) == 1 and not q.block_size:
        if scales[0] != data[axis]:
            yield f"{scales[0]} scales for {data[axis]} channels of axis {q.axis}"
    elif len(scales) != len(data):
        yield f"scales of shape {list(scales)} fit neither channels nor blocks of a tensor of shape {list(data)}"
    elif any(s != d for i, (s, d) in enumerate(zip(scales, data, strict=True)) if i != axis):
        yield f"scales of shape {list(scales)} for a tensor of shape {list(data)}: only axis {q.axis} may have blocks"
    elif q.block_size and scales[axis] != -(-data[axis] // q.block_size):
        yield f"{scales[axis]} scales along axis {q.axis} for {data[axis]} values in blocks of {q.block_size}"


def channel_axis(graph: Graph) -> Iterator[Hit]:
    """Weights with a scale per channel have it per output channel: axis 0 of a Conv, the last axis of a MatMul.

    onnxruntime fuses a Conv with scales along another axis all the same, and computes something else.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
    """
    for node in graph.layers():
        weight, data = graph.dequantizer_of(node.input[1], frozenset()), graph.dequantizer_of(node.input[0])
        if weight is None or data is None or weight.block_size or not graph.is_constant(weight.data):
            continue
        scales, shape = graph.shape(weight.scale), graph.shape(weight.data)
        if scales is None or shape is None or len(scales) != 1 or scales[0] in (1, None):
            continue
        wanted = output_axis(node, len(shape))
        if weight.axis % max(len(shape), 1) != wanted:
            yield (
                weight.name,
                f"scales along axis {weight.axis} of {label(node)}'s weight: make them along axis {wanted}",
            )


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a layer's weight that counts its output channels."""
    if node.op_type == "MatMul":
        return rank - 1
    if node.op_type == "Gemm":
        return 0 if integer(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def double_rounding(graph: Graph) -> Iterator[Hit]:
    """A tensor is quantized once: two pairs in a row with different parameters round twice.

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/double_qdq_pairs_remover.h
    """
    for second in graph.quantizers:
        first = graph.dequantizer_of(second.data)
        if not second.quantizes or first is None or graph.is_constant(first.data):
            continue
        if (graph.quantizer_of(first.data) or second).quantizes and not same_grid(graph, first, second):
            yield second.name, f"quantizes again what {first.name} dequantized; use one pair with one scale"


def same_grid(graph: Graph, one: Quantizer, two: Quantizer) -> bool:
    """True if two nodes have the same grid, as pairs around operators that only move values do."""

    def equal(a: str, b: str) -> bool:
        left, right = graph.value(a), graph.value(b)
        return a == b or (left is not None and right is not None and np.array_equal(left, right))

    return one.element == two.element and equal(one.scale, two.scale) and equal(one.zero_point, two.zero_point)


def standard_operators(graph: Graph) -> Iterator[Hit]:
    """All operators are of the standard ONNX domain, or functions that the model brings along.

    Source: https://onnx.ai/onnx/operators/
    """
    functions = {(f.domain, f.name) for f in graph.model.functions}
    for node in graph.nodes:
        if node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in functions:
            yield label(node), f"operator {node.domain}.{node.op_type} is not part of ONNX; few runtimes have it"


def idle(graph: Graph, q: Quantizer) -> bool:
    """True if the pair that a DQ node ends lies between float operators and layers with float weights only.

    A float layer that reads the result of a quantized operator is what mixed precision looks like, and no fault.
    """
    first = graph.quantizer_of(q.data)
    maker = graph.makers.get(first.data) if first is not None and first.quantizes else None
    if maker is not None and any(graph.dequantizer_of(t) is not None for t in maker.input if t):
        return False
    ends = graph.ends(q.result)
    return bool(ends) and all(
        use.node.op_type in LAYERS
        and len(use.node.input) > 1
        and any(graph.dequantizer_of(t) is None for t in use.node.input[:2])
        for use in ends
    )


def is_quantizer(node: onnx.NodeProto) -> bool:
    return node.op_type in QUANTIZE or node.op_type in DEQUANTIZE
