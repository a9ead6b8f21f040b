"""Gemm in every form as Gemm in its simplest: A · B with a bias per column, which is what layers are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.model.tidy import free_name

_BIAS = 2
_OPTIONAL_BIAS = 11  # the first opset in which C may be left out


def simplify_gemms(graph: gs.Graph) -> dict[str, str]:
    """Move alpha and beta into constant weights and biases, transA and a bias that is none per column into nodes of
    their own.

    Only Gemms with a constant float32 B are changed. Returns new node -> the Gemm that it was part of.
    """
    namer, scaled = Namer(graph), dict[tuple[int, float], gs.Constant]()
    for node in list(graph.nodes):
        if node.op == "Gemm" and _has_weight(node):
            _fold_alpha(node, scaled, namer.new)
            _fold_bias(node, graph, namer)
            _move_transpose(node, graph, namer)
    return namer.made_for


class Namer:
    """Names that nothing in the graph has."""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = {*(n.name for n in graph.nodes), *graph.tensors()}
        self.made_for: dict[str, str] = {}

    def new(self, name: str) -> str:
        return free_name(name, self._taken)

    def node(self, op: str, part_of: gs.Node, what: str, inputs: list[gs.Tensor], **attributes: object) -> gs.Node:
        """A node without outputs."""
        name = self.new(f"{part_of.name}/{what}")
        self.made_for[name] = part_of.name
        return gs.Node(op, name, attributes, inputs)

    def result(self, node: gs.Node) -> gs.Variable:
        result = gs.Variable(self.new(f"{node.name}/result"), np.float32)
        node.outputs = [result]
        return result


def _has_weight(node: gs.Node) -> bool:
    weight = node.inputs[1]
    constant = isinstance(weight, gs.Constant) and weight.dtype == np.float32
    return constant and not isinstance(node.inputs[0], gs.Constant) and node.domain in (None, "", "ai.onnx")


def _fold_alpha(node: gs.Node, scaled: dict[tuple[int, float], gs.Constant], new: Callable[[str], str]) -> None:
    """Gemms that share a weight and alpha share the product."""
    alpha, weight = float(node.attrs.get("alpha", 1.0)), node.inputs[1]
    if alpha == 1.0:
        return
    del node.attrs["alpha"]
    key = id(weight), alpha
    if key not in scaled:
        scaled[key] = gs.Constant(new(f"{weight.name}/scaled"), _times(weight.values, alpha))
    node.inputs[1] = scaled[key]


def _fold_bias(node: gs.Node, graph: gs.Graph, namer: Namer) -> None:
    beta = float(node.attrs.get("beta", 1.0))
    if len(node.inputs) <= _BIAS or node.inputs[_BIAS].is_empty():
        if beta != 1.0:
            del node.attrs["beta"]
        return
    bias, columns = node.inputs[_BIAS], node.inputs[1].shape[0 if node.attrs.get("transB", 0) else 1]
    if isinstance(bias, gs.Constant) and bias.shape and bias.shape[-1] == math.prod(bias.shape) == columns:
        if beta != 1.0 or len(bias.shape) > 1:
            node.inputs[_BIAS] = gs.Constant(namer.new(f"{node.name}/bias"), _times(bias.values, beta).ravel())
    elif isinstance(bias, gs.Constant) and math.prod(bias.shape) == 1:
        values = np.full(columns, _times(bias.values, beta).item(), np.float32)
        node.inputs[_BIAS] = gs.Constant(namer.new(f"{node.name}/bias"), values)
    elif graph.opset >= _OPTIONAL_BIAS:
        _move_bias(node, bias, beta, graph, namer)
    else:
        return
    if beta != 1.0:
        del node.attrs["beta"]


def _move_bias(node: gs.Node, bias: gs.Tensor, beta: float, graph: gs.Graph, namer: Namer) -> None:
    """An Add behind the product."""
    del node.inputs[_BIAS]
    if beta == 0.0:
        return
    [result] = node.outputs
    if beta != 1.0 and isinstance(bias, gs.Constant):
        bias = gs.Constant(namer.new(f"{node.name}/addend"), _times(bias.values, beta))
    elif beta != 1.0:
        factor = gs.Constant(namer.new(f"{node.name}/beta"), np.array(beta, np.float32))
        product = namer.node("Mul", node, "scale", [bias, factor])
        graph.nodes.append(product)
        bias = namer.result(product)
    add = namer.node("Add", node, "add", [namer.result(node), bias])
    add.outputs = [result]
    graph.nodes.append(add)


def _move_transpose(node: gs.Node, graph: gs.Graph, namer: Namer) -> None:
    """A Transpose before the product, or one less where A comes out of one."""
    if not node.attrs.get("transA", 0):
        return
    del node.attrs["transA"]
    given = node.inputs[0]
    source = given.inputs[0] if given.inputs else None
    if source is not None and source.op == "Transpose" and source.attrs.get("perm", [1, 0]) == [1, 0]:
        node.inputs[0] = source.inputs[0]
        return
    turned = namer.node("Transpose", node, "transpose", [given], perm=[1, 0])
    graph.nodes.append(turned)
    node.inputs[0] = namer.result(turned)


def _times(values: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    return (values.astype(np.float64) * factor).astype(np.float32)
