"""Look-ups over a graph: who makes and who reads each tensor, constants, types and shapes."""

from __future__ import annotations

import math
from collections.abc import Set
from functools import cached_property

import numpy as np
import onnx

from onnxmpq.model.shell import LARGEST_KEPT, inferable
from onnxmpq.model.tidy import captured, reads_inside
from onnxmpq.model.unknown import described, float_by_use

MOST_PROPAGATED, LONGEST_FOLLOWED = 2**16, 2**22
_NUMBERS = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT})
_SIZED = frozenset({"CenterCropPad", "ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Reshape", "Tile", "TopK"})
_HIGHEST_RANK = 64
_FOLLOWED = frozenset(
    {"Add", "Cast", "Concat", "Div", "Expand", "Flatten", "Gather", "Identity", "Max", "Min", "Mod", "Mul", "Neg"}
    | {"Reshape", "Slice", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"}
)


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

    @cached_property
    def inside(self) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
        """Tensor -> (node, input): what reads it in bodies of the graph's nodes, nested ones too, in their order."""
        found: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for holder in self.nodes:
            for node, slot in reads_inside(holder):
                found.setdefault(node.input[slot], []).append((node, slot))
        return found

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
        """The value of a constant with one element, None for others."""
        if tensor not in self.constants or math.prod(self.constants[tensor].dims) != 1:
            return None
        return float(onnx.numpy_helper.to_array(self.constants[tensor]).reshape(-1)[0])


def _inferred(bare: onnx.ModelProto, stored: Set[str]) -> dict[str, onnx.ValueInfoProto]:
    """Types and shapes by tensor, without those of constants."""
    try:
        graph = onnx.shape_inference.infer_shapes(bare, data_prop=_follows_values(bare.graph, stored)).graph
    except Exception:  # attributes that make no sense: the runtime has the last word on them
        graph = bare.graph
    found = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: v for v in found if v.name not in stored and v.type.WhichOneof("value")}


def _follows_values(graph: onnx.GraphProto, stored: Set[str]) -> bool:
    """True if inference may follow values: not where it would make a list as long as a dimension that has no end.

    onnx stands for the values of a vector by as many unknown numbers as it is long.
    """
    declared = [v for v in (*graph.input, *graph.output, *graph.value_info) if v.name not in stored]
    longest = max((d.dim_value for v in declared for d in v.type.tensor_type.shape.dim), default=0)
    if longest > LONGEST_FOLLOWED or _propagated(graph) > MOST_PROPAGATED:
        return False
    constants = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants |= {t: a.t for t in node.output for a in node.attribute if a.HasField("t")}
    sizes = {t for n in graph.node if n.op_type in _SIZED for t in n.input if t in constants}
    return all(_largest(constants[t]) <= LONGEST_FOLLOWED for t in sizes)


def _largest(tensor: onnx.TensorProto) -> float:
    """Of the values of a small tensor, by magnitude; 0 for those that are no sizes."""
    if math.prod(tensor.dims) > LARGEST_KEPT or tensor.data_type not in _NUMBERS:
        return 0.0
    return float(np.abs(onnx.numpy_helper.to_array(tensor).astype(np.float64)).max(initial=0.0))


def _propagated(graph: onnx.GraphProto) -> int:
    """Upper limit of the values that inference of shapes follows through any one tensor.

    onnx adds up those of Concat without an end: 33 of them, each of the last one twice, would take the whole memory.
    """
    held = {t.name: math.prod(t.dims) for t in graph.initializer}
    for node in graph.node:
        read = [held.get(t, 0) for t in node.input]
        count = 0
        if node.op_type in _FOLLOWED:
            count = sum(read) if node.op_type == "Concat" else max(read, default=0)
        elif node.op_type in ("Shape", "Constant"):
            count = max(
                [_HIGHEST_RANK, *(math.prod(a.t.dims) for a in node.attribute), *(len(a.ints) for a in node.attribute)]
            )
        held.update(dict.fromkeys(node.output, count))
    return max(held.values(), default=0)


def read_by(node: onnx.NodeProto) -> list[str]:
    """Tensors that a node reads, "" for an input that is left out; those that its subgraphs read come last."""
    return [*node.input, *captured(node)]
