"""float16, bfloat16 and double graphs in float32, which kernels of quantized weights take; ends keep their types.

CPUs compute float16 in float32 anyway, with a cast around each node.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.operators import OPERATORS
from onnxmpq.model.store import described
from onnxmpq.model.tidy import bodies, defined_in, free_name, subgraphs

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_OTHERS = HALVES | {TensorProto.DOUBLE}
_ELEMENT_TYPES = frozenset({"to", "dtype", "output_datatype", "output_dtype", "stash_type"})
"""Attributes that hold the type of a result."""


def other_floats(proto: onnx.ModelProto) -> frozenset[int]:
    """Types to widen: those of 16 bits that a node computes in, and double where a layer's weight is of it."""
    index, found = GraphIndex(proto), set[int]()
    for node in index.nodes:
        if node.op_type not in ("Constant", "Cast"):
            found.update(_element(index, t) for t in (*node.input, *node.output))
        elif node.op_type == "Cast" and not _is_constant(index, node.input[0]):
            found.update(_element(index, t) for t in node.output)
    double = any(
        n.op_type in OPERATORS and TensorProto.DOUBLE in (_element(index, t) for t in n.input[:2]) for n in index.nodes
    )
    return frozenset(found & (_OTHERS if double else HALVES))


def widened(proto: onnx.ModelProto, types: frozenset[int]) -> onnx.ModelProto:
    """A copy in which tensors of these types are float32, but for inputs and outputs, behind and before a Cast.

    Raises ValueError for a kind of value that is not looked into.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    constants = {t.name for t in copy.graph.initializer}
    given = [
        i for i in copy.graph.input if i.name not in constants
    ]  # up to IR version 3 every constant is an input too
    del copy.graph.input[:]
    copy.graph.input.extend(given)
    ends = {
        "input": [i.name for i in copy.graph.input if i.type.tensor_type.elem_type in types],
        "output": [o.name for o in copy.graph.output if o.type.tensor_type.elem_type in types],
    }
    if constants.intersection(ends["output"]):
        raise ValueError("a constant of 16 bits is an output of the model")
    declared = {o.name: o.type.tensor_type.elem_type for o in copy.graph.output}
    for graph in subgraphs(copy.graph):
        _widen_graph(graph, types, outer=graph is copy.graph)
    taken = {t for graph in subgraphs(copy.graph) for t in defined_in(graph)}
    inner = {name: free_name(f"{name}/float32", taken) for name in (*ends["input"], *ends["output"])}
    _rename(copy.graph, inner)
    before = [_cast(name, inner[name], TensorProto.FLOAT) for name in ends["input"]]
    behind = [_cast(inner[name], name, declared[name]) for name in ends["output"]]
    nodes = [*before, *copy.graph.node, *behind]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _is_constant(index: GraphIndex, tensor: str) -> bool:
    maker = index.producer.get(tensor)
    return tensor in index.constants or (maker is not None and maker.op_type == "Constant")


def _element(index: GraphIndex, tensor: str) -> int:
    if tensor in index.constants:
        return int(index.constants[tensor].data_type)
    return int(index.infos[tensor].type.tensor_type.elem_type) if tensor in index.infos else 0


def _widen_graph(graph: onnx.GraphProto, types: frozenset[int], *, outer: bool) -> None:
    if graph.sparse_initializer:
        raise ValueError("sparse constants")
    for tensor in graph.initializer:
        _widen_tensor(tensor, types)
    infos = graph.value_info if outer else (*graph.value_info, *graph.input, *graph.output)
    for kind in (k for info in infos for k in _tensor_types(info.type)):
        if kind.elem_type in types:
            kind.elem_type = TensorProto.FLOAT
    if outer and any(k.elem_type in types for i in (*graph.input, *graph.output) for k in _inner_types(i.type)):
        raise ValueError("a sequence of 16-bit tensors is an input or an output of the model")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t, types)
            elif attribute.name in _ELEMENT_TYPES and attribute.i in types:
                attribute.i = TensorProto.FLOAT


def _tensor_types(kind: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    """Of a value's type and of what it is made of."""
    if kind.WhichOneof("value") == "tensor_type":
        yield kind.tensor_type
    yield from _inner_types(kind)


def _inner_types(kind: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    if kind.WhichOneof("value") in ("sequence_type", "optional_type"):
        yield from _tensor_types(getattr(kind, kind.WhichOneof("value")).elem_type)


def _widen_tensor(tensor: TensorProto, types: frozenset[int]) -> None:
    if tensor.data_type not in types:
        return
    if described(tensor):
        tensor.data_type = TensorProto.FLOAT
    else:
        values = np.asarray(numpy_helper.to_array(tensor), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Other names for values of the outermost graph, wherever they are made or read; inner names are others."""
    for node in graph.node:
        node.input[:] = [names.get(t, t) for t in node.input]
        node.output[:] = [names.get(t, t) for t in node.output]
        for body in bodies(node):
            _rename(body, names)


def _cast(source: str, result: str, element: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], f"{source}/cast", to=element)
