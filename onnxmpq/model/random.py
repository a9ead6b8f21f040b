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


def random_tensors(graph: onnx.GraphProto) -> set[str]:
    """Tensors whose values depend on random numbers. Nodes are in order."""
    constants, found = {t.name: t for t in graph.initializer}, set[str]()
    for node in graph.node:
        drawn = _draws(node, constants) or any(random_tensors(body) for body in bodies(node))
        if drawn or any(t in found for t in (*node.input, *captured(node))):
            found.update(t for t in node.output if t)
    return found


def _draws(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """A Dropout does in training, which an input says from opset 12 on."""
    if draws(node.op_type, node.domain):
        return True
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    training = constants.get(node.input[2])
    return training is None or bool(onnx.numpy_helper.to_array(training).any())
