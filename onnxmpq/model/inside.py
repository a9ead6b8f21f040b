"""Operators of onnxruntime that hold weight matrices themselves, such as routed experts.

They are no layers: which expert multiplies is decided inside, and no scheme here writes their weights. They stay as
they are, and what is around them is planned.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxmpq.model.unpack import DOMAIN, constant_bytes

_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "MoE": (2, 4, 6),
    "QMoE": (2, 5, 8),
    "Attention": (1,),
    "QAttention": (1,),
    "EmbedLayerNormalization": (2, 3, 4),
}
"""Places of the matrices among the inputs of com.microsoft's operators."""


def weights_inside(proto: onnx.ModelProto) -> dict[str, int]:
    """Node of the outermost graph -> bytes of the weights that it holds. Values are not read."""
    constants = {t.name: t for t in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        places = _WEIGHTS.get(node.op_type, ()) if node.domain == DOMAIN else ()
        held = [constants[t] for place in places for t in node.input[place : place + 1] if t in constants]
        if held:
            found[node.name] = sum(map(constant_bytes, held))
    return found


def in_words(proto: onnx.ModelProto) -> list[str]:
    """A note for each operator that holds weights."""
    held, types = weights_inside(proto), {n.name: n.op_type for n in proto.graph.node}
    notes = []
    for op_type in dict.fromkeys(types[name] for name in held):
        sizes = [size for name, size in held.items() if types[name] == op_type]
        count = f"{len(sizes)} node{'s' if len(sizes) > 1 else ''}"
        notes.append(
            f"weights inside {op_type}: {count} of {sum(sizes) / 1e6:.3g} MB are left as they are; no scheme "
            "reaches them"
        )
    return notes
