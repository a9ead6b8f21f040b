"""If nodes whose condition is a constant, as exporters leave them: the branch that is always taken becomes part of the
graph around it, so that its layers can be quantized."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper

from onnxmpq.model.tidy import bodies, name_nodes, refill


def with_branches(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of a tidy graph with the nodes of branches that are always taken in the place of their If.

    None where there are no such branches.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if not _take(copy.graph, {}):
        return None
    name_nodes(copy.graph)
    return copy


def _take(graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto]) -> bool:
    constants = {**outer, **{t.name: t for t in graph.initializer}}
    nodes: list[onnx.NodeProto] = []
    found = False
    for node in graph.node:
        condition = constants.get(node.input[0]) if node.op_type == "If" and node.domain in ("", "ai.onnx") else None
        if condition is None:
            found = any([_take(body, constants) for body in bodies(node)]) or found
            nodes.append(node)
            continue
        found = True
        name = "then_branch" if numpy_helper.to_array(condition).any() else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == name)
        nodes += branch.node
        nodes += [
            helper.make_node("Identity", [made.name], [result], f"{node.name}/{result}")
            for made, result in zip(branch.output, node.output, strict=False)
            if result
        ]
        graph.initializer.extend(branch.initializer)
        graph.sparse_initializer.extend(branch.sparse_initializer)
        graph.value_info.extend(branch.value_info)
    if found:
        refill(graph.node, nodes)
    return found
