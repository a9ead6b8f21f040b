"""Float tensors behind integer outputs, by which effects are measured where a model hands out nothing else.

A label stays the same until a score overtakes another, so most changes of one layer change no label at all.
"""

from __future__ import annotations

import onnx

from onnxmpq.model import GraphIndex, read_by

_OF_SHAPE = frozenset({"Shape", "Size"})  # their results do not depend on values


def float_sources(structure: onnx.ModelProto) -> list[str]:
    """The computed float32 tensors nearest to the outputs, in the order of the outputs; none where an output is a float
    itself."""
    index, found, seen = GraphIndex(structure), list[str](), set[str]()
    waiting = [o.name for o in structure.graph.output]
    if any(index.is_float(name) for name in waiting):
        return []
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
