"""Blocks with a graph inside: If, Loop, Scan, local functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.random_graphs.builder import DOMAIN, LARGEST_WEIGHT, Builder, need


def _flag(b: Builder) -> str:
    """A constant, or computed from an input alone: what is quantized on the way may tip a scale."""
    if b.chance(2):
        return b.constant(b.chance(2), np.bool_)
    total = b.node("ReduceSum", b.node("Cast", b.rng.choice(b.inputs), to=TensorProto.FLOAT), keepdims=0)
    return b.node("Greater", total, b.constant(0.0))


def _body(
    b: Builder,
    nodes: Sequence[onnx.NodeProto],
    ins: Sequence[onnx.ValueInfoProto],
    outs: Sequence[onnx.ValueInfoProto],
    stored: Sequence[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    return helper.make_graph(nodes, b.rng.choice(["body", "b"]), ins, outs, stored)


def _float(name: str, rank: int | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None if rank is None else [None] * rank)


def _outer_or_own(b: Builder, size: int) -> tuple[str, list[str], list[onnx.TensorProto]]:
    """A square weight of the graph, or of the body: its name, what the body reads, what it stores."""
    need(size * size <= LARGEST_WEIGHT)
    if b.chance(2):
        name = b.weight(size, size)
        return name, [name], []
    return "own", [], [numpy_helper.from_array(b.random(size, size, spread=max(size, 1) ** -0.5), "own")]


def branches(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2)
    made = []
    reads = [x]
    for op in ("Relu", "Tanh"):
        name, outer, stored = _outer_or_own(b, shape[-1])
        nodes = [helper.make_node("MatMul", [x, name], ["m"]), helper.make_node(op, ["m"], ["o"])]
        made.append(_body(b, nodes, [], [_float("o")], stored))
        reads += outer
    return b.node("If", _flag(b), reads=list(dict.fromkeys(reads)), then_branch=made[0], else_branch=made[1])


def loop(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2)
    name, outer, stored = _outer_or_own(b, shape[-1])
    nodes = [
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("MatMul", ["s", name], ["m"]),
        helper.make_node("Tanh", ["m"], ["r"]),
    ]
    ins = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        _float("s"),
    ]
    body = _body(b, nodes, ins, [helper.make_tensor_value_info("d", TensorProto.BOOL, []), _float("r")], stored)
    return b.node("Loop", b.constant(2, np.int64), "", x, reads=outer, body=body)


def scan(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) == 3 and b.opset >= 9)
    name, outer, stored = _outer_or_own(b, shape[-1])
    nodes = [
        helper.make_node("MatMul", ["e", name], ["m"]),
        helper.make_node("Add", ["m", "s"], ["a"]),
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Identity", ["t"], ["u"]),
    ]
    body = _body(b, nodes, [_float("s", 2), _float("e", 2)], [_float("t", 2), _float("u", 2)], stored)
    start = b.sliced(x, 1, 0, 1)
    start = b.node("Squeeze", start, axes=[1]) if b.opset < 13 else b.node("Squeeze", start, b.ints(1))
    axes = {"scan_input_axes": [1], "scan_output_axes": [1]}
    return b.results("Scan", start, x, outputs=2, reads=outer, body=body, num_scan_inputs=1, **axes)[1]


def function(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2 and b.opset >= 15)
    name = f"F{len(b.functions)}"
    nodes = [helper.make_node("MatMul", ["p", "w"], ["m"]), helper.make_node("Relu", ["m"], ["r"])]
    imports = [helper.make_opsetid("", b.opset)]
    b.functions.append(helper.make_function(DOMAIN, name, ["p", "w"], ["r"], nodes, imports))
    once = b.node(name, x, b.weight(shape[-1], shape[-1]), domain=DOMAIN)
    return b.node(name, once, b.weight(shape[-1], shape[-1]), domain=DOMAIN) if b.chance(2) else once
