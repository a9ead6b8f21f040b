"""Regions: the graph cut into groups of nodes that belong together.

Patterns are entries of tables: operators that compute in int8 (`ARITHMETIC_OPS`), operators that only move values
(`PASSTHROUGH_OPS`), and the grouping rules in `GROUPERS`, tried in order for every node that is still free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer
from onnxmpq.model.operators import HEADS, LayerOperator
from onnxmpq.model.types import Region, RegionKind

ARITHMETIC_OPS = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax", "MatMul"}
)
PASSTHROUGH_OPS = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "Gather"}
    | {"Expand", "DepthToSpace", "SpaceToDepth", "Identity", "Tile"}
)
ABSORBED_ACTIVATIONS = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class _Group:
    kind: RegionKind
    nodes: tuple[onnx.NodeProto, ...]
    pattern: str
    layer: Layer | None = None


def find_regions(proto: onnx.ModelProto, frozen: Iterable[str] = ()) -> tuple[Region, ...]:
    """Cut a prepared graph into regions, in graph order. Nodes named in `frozen` stay float whatever they are."""
    index, done, left_alone = GraphIndex(proto), set[str](), set(frozen)
    regions = []
    for node in index.nodes:
        if node.name in done:
            continue
        group = None if node.name in left_alone else _first_group(node, index, done)
        if group is not None and group.kind is RegionKind.LAYER and not _reads_activations(group, index):
            group = None
        group = group or _Group(RegionKind.FLOAT, (node,), node.op_type)
        done.update(n.name for n in group.nodes)
        region = _region(group, index)
        if region.inputs or region.outputs:
            regions.append(region)
    return tuple(regions)


def _reads_activations(group: _Group, index: GraphIndex) -> bool:
    """False for a layer whose input is of a type that is not known; a table is looked up by integers."""
    head = group.nodes[0]
    return HEADS[head.op_type].looks_up or bool(index.activations(head))


def _first_group(node: onnx.NodeProto, index: GraphIndex, done: set[str]) -> _Group | None:
    for grouper in GROUPERS:
        group = grouper(node, index)
        if group and not any(n.name in done for n in group.nodes):
            return group
    return None


def _region(group: _Group, index: GraphIndex) -> Region:
    inside = {n.name for n in group.nodes}
    made = {t for n in group.nodes for t in n.output}
    inputs = dict.fromkeys(t for n in group.nodes for t in index.activations(n) if t not in made)
    outputs = [
        t
        for n in group.nodes
        for t in n.output
        if t
        and index.is_float(t)
        and (t in index.outputs or any(r.name not in inside for r in index.readers.get(t, [])))
    ]
    head = group.nodes[0]
    return Region(
        head.name,
        head.op_type,
        group.kind,
        tuple(n.name for n in group.nodes),
        tuple(inputs),
        tuple(outputs),
        group.layer,
        group.pattern,
    )


def _layer(node: onnx.NodeProto, index: GraphIndex) -> _Group | None:
    """A node with constant weights, the bias and the activation that its kernel computes too."""
    operator = HEADS.get(node.op_type)
    layer = operator.describe(node, index) if operator is not None else None
    if operator is None or layer is None:
        return None
    nodes, layer = _with_bias(node, operator, layer, index)
    if operator.absorbs_activation:
        nodes = _with_activation(nodes, index)
    return _Group(RegionKind.LAYER, tuple(nodes), "+".join(n.op_type for n in nodes), layer)


def _with_bias(
    node: onnx.NodeProto, operator: LayerOperator, layer: Layer, index: GraphIndex
) -> tuple[list[onnx.NodeProto], Layer]:
    """A layer and the Add of a constant row vector after it."""
    follower = index.only_reader(node.output[0])
    if not operator.bias_follows or layer.storage_only or follower is None or follower.op_type != "Add":
        return [node], layer
    other = next((t for t in follower.input if t != node.output[0]), "")
    constant = index.constants.get(other)
    if constant is None or tuple(constant.dims) != (layer.out_channels,):
        return [node], layer
    return [node, follower], replace(layer, bias=other)


def _with_activation(nodes: list[onnx.NodeProto], index: GraphIndex) -> list[onnx.NodeProto]:
    """Add a Relu, or a Clip with constant bounds, that is the only reader."""
    follower = index.only_reader(nodes[-1].output[0])
    if follower is None or follower.op_type not in ABSORBED_ACTIVATIONS:
        return nodes
    bounds = [t for t in follower.input[1:] if t]
    return nodes if any(index.scalar(t) is None for t in bounds) else [*nodes, follower]


def _silu(node: onnx.NodeProto, index: GraphIndex) -> _Group | None:
    """x * Sigmoid(x)."""
    if node.op_type != "Sigmoid" or not index.is_float(node.input[0]):
        return None
    follower = index.only_reader(node.output[0])
    if follower is None or follower.op_type != "Mul" or set(follower.input) != {node.input[0], node.output[0]}:
        return None
    return _Group(RegionKind.ARITHMETIC, (node, follower), "SiLU")


def _gelu(node: onnx.NodeProto, index: GraphIndex) -> _Group | None:
    """0.5 x (1 + erf(x / sqrt(2))) spelled out, which the runtime fuses to one float kernel."""
    if node.op_type not in ("Div", "Mul") or index.only_reader(node.output[0]) is None:
        return None
    erf = index.only_reader(node.output[0])
    add = index.only_reader(erf.output[0]) if erf is not None and erf.op_type == "Erf" else None
    product = index.only_reader(add.output[0]) if add is not None and add.op_type == "Add" else None
    if erf is None or add is None or product is None or product.op_type != "Mul":
        return None
    nodes, last = [node, erf, add, product], index.only_reader(product.output[0])
    if last is not None and last.op_type == "Mul" and any(t in index.constants for t in last.input):
        nodes.append(last)
    return _Group(RegionKind.FLOAT, tuple(nodes), "GELU")


def _arithmetic(node: onnx.NodeProto, index: GraphIndex) -> _Group | None:
    if node.op_type not in ARITHMETIC_OPS or node.domain not in ("", "ai.onnx"):
        return None
    if any(t in index.constants or not index.is_float(t) for t in node.input if t):
        return None
    if len(set(node.input)) < len(node.input):  # x + x, x * x: no int8 kernel is fused for a shared operand
        return None
    nodes = _with_activation([node], index) if node.op_type == "Add" else [node]
    return _Group(RegionKind.ARITHMETIC, tuple(nodes), "+".join(n.op_type for n in nodes))


def _passthrough(node: onnx.NodeProto, index: GraphIndex) -> _Group | None:
    if node.op_type not in PASSTHROUGH_OPS or node.domain not in ("", "ai.onnx"):
        return None
    if node.input[0] in index.constants or not index.is_float(node.input[0]):
        return None
    if node.op_type == "MaxPool" and len(node.output) > 1:
        return None
    if any(not index.is_float(t) for t in node.output if t):
        return None
    return _Group(RegionKind.PASSTHROUGH, (node,), node.op_type)


Grouper = Callable[[onnx.NodeProto, GraphIndex], _Group | None]
GROUPERS: tuple[Grouper, ...] = (_layer, _silu, _gelu, _arithmetic, _passthrough)
