"""A sum and its normalization written as onnxruntime's SkipLayerNormalization, which hands out both.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from onnxmpq.model.attention import dims_of
from onnxmpq.model.index import GraphIndex
from onnxmpq.model.operators.types import attributes_of
from onnxmpq.model.store import without_initializers
from onnxmpq.model.tidy import refill
from onnxmpq.model.unpack import DOMAIN

_STANDARD = ("", "ai.onnx")
_BY_ELEMENT = frozenset(
    {"Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Relu", "Sigmoid", "Tanh", "Sqrt", "Neg", "Pow", "Exp", "Identity"}
)
_RANK = 3  # [batch, tokens, size]: of fewer or more, not every version of the kernel knows


def fuse_norms(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, tuple[str, ...]]]:
    """A tidy graph with each LayerNormalization of a sum of two tensors of one shape as one node, which keeps its name,
    and for each such node the names of the nodes that it stands for.

    It stands where the sum was made. A new graph, or `proto` itself where there
    is none. Of two normalizations of one sum the first one makes it.
    """
    index = GraphIndex(proto)
    found = {add.name: (add, norm) for add, norm in reversed(list(_pairs(index)))}
    if not found:
        return proto, {}
    gone, made_of = {norm.name for _, norm in found.values()}, {n: _fused(index, *pair) for n, pair in found.items()}
    made = without_initializers(proto)
    made.graph.initializer.extend(proto.graph.initializer)
    refill(made.graph.node, [made_of.get(n.name, n) for n in proto.graph.node if n.name not in gone])
    if DOMAIN not in {o.domain for o in made.opset_import}:
        made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return made, {norm.name: (add.name, norm.name) for add, norm in found.values()}


def _pairs(index: GraphIndex) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    rows = _rows(index)
    for norm in index.nodes:
        add = index.producer.get(norm.input[0]) if _is(norm, "LayerNormalization") else None
        if add is None or not _is(add, "Add") or any(norm.output[1:]) or not _over_last_axis(norm):
            continue
        first, second, total = (dims_of(index, t) for t in (*add.input, add.output[0]))
        if first is None or second is None or total is None or {len(first), len(second), len(total)} != {_RANK}:
            continue
        together = rows[add.input[0]] == rows[add.input[1]] and isinstance(first[-1], int) and first[-1] == second[-1]
        if together and index.is_float(add.output[0]) and all(t in index.constants for t in norm.input[1:]):
            yield add, norm


def _rows(index: GraphIndex) -> dict[str, str]:
    """Tensor -> a name that it shares with tensors whose axes but the last one are as long, as far as nodes tell that
    work on each row by itself."""
    found = {t: t for node in index.nodes for t in (*node.input, *node.output)}
    for node in index.nodes:
        computed = [t for t in node.input if t and t not in index.constants]
        others = [dims_of(index, t) for t in node.input if t in index.constants]
        if not computed or node.domain not in _STANDARD:
            continue
        by_row = (
            node.op_type in _BY_ELEMENT
            and len({found[t] for t in computed}) == 1
            and all(o is not None and len(o) <= 1 for o in others)
        )
        last = [t for t in node.input[1:] if t not in index.constants]
        product = node.op_type == "MatMul" and not last and len(others) == 1 and len(others[0] or ()) == 2
        if by_row or product or _keeps_rows(index, node):
            found.update((t, found[computed[0]]) for t in node.output if t)
    return found


def _keeps_rows(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """True for what splits or normalizes the last axis, and for attention by tokens, whose first input has its rows."""
    dims, attributes = dims_of(index, node.input[0]), attributes_of(node)
    if dims is None or len(dims) != _RANK:
        return False
    if node.op_type in ("Split", "LayerNormalization", "Softmax"):
        default = 0 if node.op_type == "Split" else -1
        return attributes.get("axis", default) in (-1, _RANK - 1)
    return node.op_type == "Attention"


def _is(node: onnx.NodeProto, operator: str) -> bool:
    return node.op_type == operator and node.domain in _STANDARD


def _over_last_axis(norm: onnx.NodeProto) -> bool:
    attributes = attributes_of(norm)
    return attributes.get("axis", -1) in (-1, _RANK - 1) and attributes.get("stash_type", 1) == 1


def _fused(index: GraphIndex, add: onnx.NodeProto, norm: onnx.NodeProto) -> onnx.NodeProto:
    total = add.output[0]
    shared = total in index.outputs or any(n is not norm for n in index.readers.get(total, []))
    outputs = [norm.output[0], "", "", total] if shared else [norm.output[0]]
    epsilon = attributes_of(norm).get("epsilon", 1e-5)
    inputs = [*add.input, *norm.input[1:]]
    return helper.make_node("SkipLayerNormalization", inputs, outputs, norm.name, domain=DOMAIN, epsilon=epsilon)
