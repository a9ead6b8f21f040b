"""Float tensors behind integer outputs, by which they are compared and effects on them measured.

A label stays the same until a score overtakes another: most changes of one layer change no label at all, and where two
scores are equal, a last bit changes one.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxmpq.model.index import GraphIndex, read_by

_OF_SHAPE = frozenset({"Shape", "Size"})  # their results do not depend on values


def float_sources(structure: onnx.ModelProto) -> list[str]:
    """The computed float32 tensors nearest to the outputs, in the order of the outputs; none where an output is a float
    itself."""
    index, outputs = GraphIndex(structure), [o.name for o in structure.graph.output]
    return [] if any(index.is_float(name) for name in outputs) else sources_of(index, outputs)


def sources_of(index: GraphIndex, tensors: Iterable[str]) -> list[str]:
    """The computed float32 tensors nearest to these, in their order; a tensor that is one itself stands for itself."""
    found, seen, waiting = list[str](), set[str](), list(tensors)
    while waiting:
        tensor = waiting.pop(0)
        node = index.producer.get(tensor)
        if tensor in seen or node is None:
            continue
        seen.add(tensor)
        if index.is_float(tensor):
            found.append(tensor)
        elif node.op_type not in _OF_SHAPE:
            waiting += [t for t in read_by(node) if t]
    return found
