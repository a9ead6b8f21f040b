"""A sum and its normalization written as onnxruntime's SkipLayerNormalization, which hands out both.

The prepared graph keeps both, since between them one tensor holds all that was computed before, at which a graph can be
cut into blocks. They are written as one when a rewritten graph is finished.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import helper

from onnxmpq.model.attention import dims_of
from onnxmpq.model.index import GraphIndex, read_by
from onnxmpq.model.operators.types import attributes_of
from onnxmpq.model.unpack import DOMAIN

Sums = tuple[tuple[str, str], ...]
_STANDARD = ("", "ai.onnx")
_BY_ELEMENT = frozenset(
    {"Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Relu", "Sigmoid", "Tanh", "Sqrt", "Neg", "Pow", "Exp", "Identity"}
)
_ALONG_AN_AXIS = {"Split": 0, "LayerNormalization": -1, "Softmax": -1}  # and the axis where none is given
_RANK = 3  # [batch, tokens, size]: of fewer or more, not every version of the kernel knows


def normalized_sums(proto: onnx.ModelProto) -> Sums:
    """(Add, LayerNormalization) of each sum of two tensors of one shape that is normalized, by names, of a tidy graph.
    Of two normalizations of one sum the first."""
    return tuple({add: (add, norm) for add, norm in reversed(list(_pairs(GraphIndex(proto))))}.values())


def fuse_norms(proto: onnx.ModelProto, sums: Sums) -> None:
    """Write these pairs as one node each, in the place of the Add and with the name of the normalization, where it
    reads the sum as it is. Changes the graph, which may be one that was rewritten since they were found."""
    nodes = {n.name: n for n in proto.graph.node}
    readers = Counter(t for n in proto.graph.node for t in read_by(n))
    outputs = {o.name for o in proto.graph.output}
    for names in sums:
        add, norm = (nodes.get(name) for name in names)
        if add is None or norm is None or add.op_type != "Add" or norm.input[0] != add.output[0]:
            continue
        shared = add.output[0] in outputs or readers[add.output[0]] > 1
        add.CopyFrom(_fused(add, norm, shared))
        proto.graph.node.remove(norm)
        if DOMAIN not in {o.domain for o in proto.opset_import}:
            proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _pairs(index: GraphIndex) -> Iterator[tuple[str, str]]:
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
            yield add.name, norm.name


def _rows(index: GraphIndex) -> dict[str, str]:
    """Tensor -> a name that it shares with tensors whose axes but the last one are as long, as far as nodes tell that
    work on each row by itself."""
    found = {t: t for node in index.nodes for t in (*node.input, *node.output)}
    for node in index.nodes:
        rows = {found[t] for t in node.input if t and t not in index.constants}
        if node.domain in _STANDARD and (source := _row_source(index, node, len(rows) == 1)):
            found.update((t, found[source]) for t in node.output if t)
    return found


def _row_source(index: GraphIndex, node: onnx.NodeProto, alike: bool) -> str:
    """The input whose rows the outputs of a node have, "" for unknown. alike: all that it computes with has one."""
    constants = [index.constants[t].dims for t in node.input if t in index.constants]
    computed = [t for t in node.input if t and t not in index.constants]
    if not computed or len(dims_of(index, computed[0]) or ()) != _RANK:
        return ""
    if node.op_type in _BY_ELEMENT:
        fits = alike and all(len(dims) <= 1 for dims in constants)
    elif node.op_type == "MatMul":
        fits = len(computed) == 1 and computed[0] == node.input[0] and len(constants[0]) == 2
    elif node.op_type in _ALONG_AN_AXIS:
        fits = attributes_of(node).get("axis", _ALONG_AN_AXIS[node.op_type]) in (-1, _RANK - 1)
    else:
        fits = node.op_type == "Attention"  # by tokens
    return computed[0] if fits else ""


def _is(node: onnx.NodeProto, operator: str) -> bool:
    return node.op_type == operator and node.domain in _STANDARD


def _over_last_axis(norm: onnx.NodeProto) -> bool:
    attributes = attributes_of(norm)
    return attributes.get("axis", -1) in (-1, _RANK - 1) and attributes.get("stash_type", 1) == 1


def _fused(add: onnx.NodeProto, norm: onnx.NodeProto, shared: bool) -> onnx.NodeProto:
    """shared: something else reads the sum, too."""
    outputs = [norm.output[0], "", "", add.output[0]] if shared else [norm.output[0]]
    epsilon = attributes_of(norm).get("epsilon", 1e-5)
    inputs = [*add.input, *norm.input[1:]]
    return helper.make_node("SkipLayerNormalization", inputs, outputs, norm.name, domain=DOMAIN, epsilon=epsilon)
