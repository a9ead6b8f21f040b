"""Inputs that are looked up in tables, such as token ids in an embedding."""

from __future__ import annotations

import onnx

_MOVING = frozenset({"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice"})


def table_rows(proto: onnx.ModelProto) -> dict[str, int]:
    """Integer inputs that index constant tables -> rows of the smallest such table.

    An input is followed through nodes that only move values. Inputs that are also read in another way are included:
    whatever else is done with them, their ids must exist.
    """
    sizes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    integers = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}
    source = {i.name: i.name for i in proto.graph.input if i.type.tensor_type.elem_type in integers}
    rows: dict[str, int] = {}
    for node in proto.graph.node:
        if node.op_type in _MOVING and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        if node.op_type == "Gather" and node.input[0] in sizes and node.input[1] in source:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            name, size = source[node.input[1]], sizes[node.input[0]][axis]
            rows[name] = min(rows.get(name, size), size)
    return rows
