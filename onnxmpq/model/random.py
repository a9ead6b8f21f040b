"""Operators that draw random numbers: what depends on them differs from run to run."""

from __future__ import annotations

import onnx

from onnxmpq.model.tidy import bodies, captured

_DRAWING = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def draws(op_type: str, domain: str = "") -> bool:
    """True for operators that draw random numbers in each run."""
    return op_type in _DRAWING and domain in ("", "ai.onnx")


def drawing_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes of a graph that draw random numbers, or whose bodies do; a Dropout that is or may be in training too."""
    constants = {t.name: t for t in graph.initializer}
    return [n for n in graph.node if _draws(n, constants) or any(drawing_nodes(b) for b in bodies(n))]


def random_tensors(graph: onnx.GraphProto) -> set[str]:
    """Tensors whose values depend on random numbers. Nodes are in order."""
    drawing = {id(n) for n in drawing_nodes(graph)}
    found: set[str] = set()
    for node in graph.node:
        if id(node) in drawing or any(t in found for t in (*node.input, *captured(node))):
            found.update(t for t in node.output if t)
    return found


def _draws(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if draws(node.op_type, node.domain):
        return True
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    training = constants.get(node.input[2])
    return training is None or bool(onnx.numpy_helper.to_array(training).any())
