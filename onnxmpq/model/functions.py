"""Local functions as onnx's inliner takes them: it ignores the default values of their attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

_Defaults = Mapping[tuple[str, str, str], onnx.FunctionProto]


def with_defaults(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with default attributes of functions spelled at every call; the model itself where there are none."""
    if not any(f.attribute_proto for f in proto.functions):
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    functions = {(f.domain, f.name, f.overload): f for f in made.functions if f.attribute_proto}
    _spell(made.graph.node, functions)
    for function in made.functions:
        _spell(function.node, functions)
    return made


def _spell(nodes: Iterable[onnx.NodeProto], functions: _Defaults) -> None:
    for node in nodes:
        function = functions.get((node.domain, node.op_type, node.overload))
        given = {a.name for a in node.attribute}
        node.attribute.extend(a for a in (function.attribute_proto if function else ()) if a.name not in given)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _spell(body.node, functions)
