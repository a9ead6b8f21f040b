"""Bytes of a model's constants as they are packed, and what an engine's bytes say about how it stores them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import onnx

from onnxmpq.compilers.types import Kind, Stored
from onnxmpq.lint import UNDEFINED, Graph, graphs, type_name

BITS: Mapping[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.FLOAT8E4M3FN: 8,
    onnx.TensorProto.FLOAT8E5M2: 8,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.DOUBLE: 64,
}
WIDER = (8, 16, 32)
SLACK = 0.06
"""Share by which an engine's constants may exceed those of the model: they are padded and aligned."""
EXACT = 0.01
"""The same for a width other than the model's: padding alone must not pass for it."""
SLACK_BYTES = 2048
"""The same for a model of a few small constants."""


def stored(proto: onnx.ModelProto) -> Stored:
    """Constants of a model by the type in which they are stored."""
    tensors: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    other = 0
    for graph in graphs(proto):
        codes = {q.data for q in graph.quantizers if not q.quantizes}
        for name, element, count in _constants(graph):
            size = -(-count * BITS.get(element, 32) // 8)
            if name in codes:
                kind = type_name(element)
                tensors[kind] += 1
                elements[kind] += count
                sizes[kind] += size
            else:
                other += size
    kinds = tuple(Kind(name, tensors[name], elements[name], sizes[name]) for name in sorted(tensors))
    return Stored(kinds, other)


def _constants(graph: Graph) -> Iterator[tuple[str, int, int]]:
    """(name, element type, number of elements) of what this graph itself stores."""
    names = [t.name for t in graph.proto.initializer]
    names += [n.output[0] for n in graph.nodes if n.op_type == "Constant" and n.output]
    for name in names:
        element, shape = graph.element(name), graph.shape(name)
        if element != UNDEFINED and shape is not None:
            yield name, element, math.prod(d or 0 for d in shape)


def widths(constants: Stored, weight_bytes: int | None) -> Mapping[str, int] | None:
    """Bits an element with which an engine of so many bytes of constants stores each quantized type.

    The widths are those of the model or of `WIDER`, whichever together come nearest to the bytes, with the fewest
    types widened. None where there are no bytes to go by, no quantized weights, or no combination comes near.
    """
    if weight_bytes is None or not constants.kinds:
        return None
    own = {k.element: 8 * k.bytes / k.elements for k in constants.kinds if k.elements}
    choices = [[round(own[name]), *(w for w in WIDER if w > own[name])] for name in own]
    best: tuple[float, int, dict[str, int]] | None = None
    for row in itertools.product(*choices):
        bits = dict(zip(own, row, strict=True))
        off = abs(weight_bytes - constants.at(bits))
        widened = sum(bits[name] > own[name] for name in own)
        near = max(off - SLACK_BYTES - (EXACT if widened else SLACK) * constants.at(bits), 0.0)
        if best is None or (near, widened, off) < (best[0], best[1], abs(weight_bytes - constants.at(best[2]))):
            best = near, widened, bits
    return best[2] if best is not None and best[0] == 0.0 else None
