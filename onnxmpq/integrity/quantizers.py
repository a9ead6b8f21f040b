"""Q/DQ nodes of a written graph: each Q with its DQ on one grid, scales and zero points that fit each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from onnxmpq.lint import UNDEFINED, Graph, Hit, Quantizer, is_quantizer, label, same_grid, type_name
from onnxmpq.model import is_quantized_op

_SCALES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def pairs(graph: Graph) -> Iterator[Hit]:
    """Results of a QuantizeLinear are read by a DequantizeLinear on the same grid, or by an operator that takes codes.
    A DequantizeLinear reads a constant, or what such nodes make."""
    by_name = {q.name: q for q in graph.quantizers}
    for q in graph.quantizers:
        yield from _readers(graph, q, by_name) if q.quantizes else _origin(graph, q)


def _readers(graph: Graph, q: Quantizer, by_name: dict[str, Quantizer]) -> Iterator[Hit]:
    uses = graph.ends(q.result)
    if not uses:
        yield q.name, f"nothing dequantizes its result {q.result!r}"
    for use in uses:
        other = by_name.get(label(use.node))
        if other is not None and not other.quantizes:
            if not same_grid(graph, q, other):
                yield other.name, f"its scale, zero point or type is not that of {q.name}, which it follows"
        elif other is not None or not is_quantized_op(use.node.op_type):
            yield q.name, f"{label(use.node)} ({use.node.op_type}) reads its result, and takes no quantized values"


def _origin(graph: Graph, q: Quantizer) -> Iterator[Hit]:
    maker, before = graph.makers.get(q.data), graph.quantizer_of(q.data)
    if graph.is_constant(q.data) or (before is not None and before.quantizes):
        return
    if maker is None or is_quantizer(maker) or not is_quantized_op(maker.op_type):
        yield q.name, f"dequantizes {q.data!r}, which no QuantizeLinear makes"


def scale_values(graph: Graph) -> Iterator[Hit]:
    """Scales are constant, finite and positive. A stored weight may have negative ones (codes reach further on one side
    of zero than on the other), as blocked weights for MatMulNBits do."""
    for q in graph.quantizers:
        scale = graph.value(q.scale)
        if not graph.is_constant(q.scale):
            yield q.name, f"its scale {q.scale!r} is no constant"
        elif scale is not None:
            size = scale if q.quantizes or not graph.is_constant(q.data) else np.abs(scale)
            wrong = scale[~(np.isfinite(scale) & (size > 0))]
            if wrong.size:
                yield q.name, f"{wrong.size} of its scales cannot be used (the first is {wrong[0]:g})"


def scale_types(graph: Graph) -> Iterator[Hit]:
    """Scales are floating point, and zero points of the type of the codes."""
    for q in graph.quantizers:
        scale, zero = graph.element(q.scale), graph.element(q.zero_point) if q.zero_point else UNDEFINED
        if scale not in (UNDEFINED, *_SCALES):
            yield q.name, f"its scale is {type_name(scale)}"
        codes = graph.element(q.result if q.quantizes else q.data)
        if UNDEFINED not in (zero, codes) and zero != codes:
            yield q.name, f"its zero point is {type_name(zero)}, the codes are {type_name(codes)}"


def zero_point_shapes(graph: Graph) -> Iterator[Hit]:
    """A zero point has the shape of its scale."""
    for q in graph.quantizers:
        scale, zero = graph.shape(q.scale), graph.shape(q.zero_point) if q.zero_point else None
        if scale is not None and zero is not None and scale != zero:
            yield q.name, f"its zero point has shape {list(zero)}, its scale {list(scale)}"
