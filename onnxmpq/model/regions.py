"""Regions: the graph cut into groups of nodes that belong together.

Patterns are entries of tables: operators that compute in int8 (`ARITHMETIC_OPS`), operators that only move values
(`PASSTHROUGH_OPS`), and the grouping rules in `GROUPERS`, tried in order for every node that is still free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmpq.model.shell import inferable
from onnxmpq.model.tidy import captured
from onnxmpq.model.types import Layer, Region, RegionKind
from onnxmpq.model.unknown import described, float_by_use

LAYER_OPS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
ARITHMETIC_OPS = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax", "MatMul"}
)
PASSTHROUGH_OPS = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "Gather"}
    | {"Expand", "DepthToSpace", "SpaceToDepth", "Identity", "Tile"}
)
ABSORBED_ACTIVATIONS = frozenset({"Relu", "Clip"})


class GraphIndex:
    """Read-only look-ups over a proto: who produces and who reads each tensor, constants, types and shapes.

    infos: tensor -> its inferred type and shape, for computed tensors and inputs.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = proto.graph
        self.nodes = list(graph.node)
        self.producer = {t: n for n in self.nodes for t in n.output if t}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(read_by(node)):
                if tensor:
                    self.readers.setdefault(tensor, []).append(node)
        self.constants = {t.name: t for t in graph.initializer}
        self.outputs = {o.name for o in graph.output}
        stored = self.constants.keys() - {i.name for i in graph.input}  # large ones are inputs of the shell
        bare = inferable(proto)
        self.infos = _inferred(bare, stored)
        if any(t and t not in self.infos for n in self.nodes for t in n.output):
            types = {t: i.type.tensor_type.elem_type for t, i in self.infos.items()}
            known = types | {t: c.data_type for t, c in self.constants.items()}
            bare.graph.value_info.extend(described(sorted(float_by_use(self.nodes, known))))
            self.infos = _inferred(bare, stored)

    def is_float(self, tensor: str) -> bool:
        return tensor in self.infos and self.infos[tensor].type.tensor_type.elem_type == onnx.TensorProto.FLOAT

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        info = self.infos.get(tensor)
        if info is None or not info.type.tensor_type.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Float inputs of a node that are computed or fed, in order, each once."""
        return [t for t in dict.fromkeys(read_by(node)) if t and t not in self.constants and self.is_float(t)]

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def scalar(self, tensor: str) -> float | None:
        if tensor not in self.constants:
            return None
        array = onnx.numpy_helper.to_array(self.constants[tensor])
        return float(array.reshape(-1)[0]) if array.size == 1 else None


def _inferred(bare: onnx.ModelProto, stored: Set[str]) -> dict[str, onnx.ValueInfoProto]:
    """Types and shapes by tensor, without those of constants."""
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    found = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: v for v in found if v.name not in stored and v.type.WhichOneof("value")}


def read_by(node: onnx.NodeProto) -> list[str]:
    """Tensors that a node reads, "" for an input that is left out; those that its subgraphs read come last."""
    return [*node.input, *captured(node)]


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
    return group.nodes[0].op_type == "Gather" or bool(index.activations(group.nodes[0]))


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
    """Conv, ConvTranspose, Gemm or MatMul with a constant float32 weight, its bias and its activation."""
    if node.op_type not in LAYER_OPS or len(node.input) < 2 or node.domain not in ("", "ai.onnx"):
        return None
    weight = index.constants.get(node.input[1])
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or not index.is_float(node.output[0]):
        return None
    if node.input[0] in index.constants:
        return None
    layer = _describe(node, weight, index)
    if layer is None:
        return None
    nodes, layer = _with_bias(node, layer, index)
    nodes = _with_activation(nodes, index)
    return _Group(RegionKind.LAYER, tuple(nodes), "+".join(n.op_type for n in nodes), layer)


def _describe(node: onnx.NodeProto, weight: onnx.TensorProto, index: GraphIndex) -> Layer | None:
    shape, attributes = tuple(weight.dims), {a.name: a for a in node.attribute}
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if bias is not None and bias not in index.constants:
        return None
    groups = attributes["group"].i if "group" in attributes else 1
    out_shape = index.shape(node.output[0])
    if node.op_type == "Conv":
        positions = _product(out_shape[2:]) if out_shape else 0
        macs = positions * shape[0] * int(np.prod(shape[1:]))
        return Layer(node.input[1], bias, shape, shape[0], int(np.prod(shape[1:])), groups, False, macs)
    if node.op_type == "ConvTranspose":
        if groups != 1:
            return None
        in_shape = index.shape(node.input[0])
        positions = _product(in_shape[2:]) if in_shape else 0
        # matrix view [in, out*kh*kw] would mix output channels: keep one row per input channel, float compute only
        return Layer(
            node.input[1], bias, shape, shape[0], int(np.prod(shape[1:])), 1, False, positions * int(np.prod(shape))
        )
    if len(shape) != 2:
        return None
    rows = _product(out_shape[1:-1]) if out_shape else 0
    if node.op_type == "Gemm":
        if any(name in attributes and attributes[name].f != 1.0 for name in ("alpha", "beta")):
            return None
        if "transA" in attributes and attributes["transA"].i:
            return None
        straight = bool("transB" in attributes and attributes["transB"].i)
        out, fan_in = (shape[0], shape[1]) if straight else (shape[1], shape[0])
        if bias is not None and tuple(index.constants[bias].dims) not in {(out,), (1, out)}:
            return None
        return Layer(node.input[1], bias, shape, out, fan_in, 1, not straight, out * fan_in)
    return Layer(node.input[1], None, shape, shape[1], shape[0], 1, True, rows * shape[0] * shape[1])


def _embedding(node: onnx.NodeProto, index: GraphIndex) -> _Group | None:
    """Gather of rows from a constant float32 table: a layer that only stores."""
    table = index.constants.get(node.input[0]) if node.op_type == "Gather" else None
    if table is None or table.data_type != onnx.TensorProto.FLOAT or len(table.dims) != 2:
        return None
    if any(a.name == "axis" and a.i != 0 for a in node.attribute):
        return None
    shape = tuple(table.dims)
    return _Group(RegionKind.LAYER, (node,), "Gather", Layer(node.input[0], None, shape, shape[0], shape[1]))


def _product(dims: Iterable[int | None]) -> int:
    """Product of the known dimensions; 0 where one is unknown."""
    return int(np.prod([d or 0 for d in dims], initial=1))


def _with_bias(node: onnx.NodeProto, layer: Layer, index: GraphIndex) -> tuple[list[onnx.NodeProto], Layer]:
    """A MatMul and the Add of a constant row vector after it."""
    follower = index.only_reader(node.output[0])
    if node.op_type != "MatMul" or follower is None or follower.op_type != "Add":
        return [node], layer
    other = next((t for t in follower.input if t != node.output[0]), "")
    constant = index.constants.get(other)
    if constant is None or tuple(constant.dims) != (layer.out_channels,):
        return [node], layer
    with_bias = Layer(
        layer.weight, other, layer.weight_shape, layer.out_channels, layer.fan_in, 1, layer.transposed, layer.macs
    )
    return [node, follower], with_bias


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
GROUPERS: tuple[Grouper, ...] = (_layer, _embedding, _silu, _gelu, _arithmetic, _passthrough)
