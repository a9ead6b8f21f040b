"""Ways to break a written graph, as a table: where each can be applied, and which nodes may be named for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Names = set[str]


@dataclass(frozen=True)
class Mutation:
    """sites: numbers of the places of a graph that it can break. apply: breaks one of them, and returns the nodes of
    which the check has to name one ("" for the model as a whole)."""

    id: str
    check: str
    sites: Callable[[onnx.ModelProto], Sequence[int]]
    apply: Callable[[onnx.ModelProto, int], Names]


# ---- places -------------------------------------------------------------------------------------


def anywhere(proto: onnx.ModelProto) -> list[int]:
    return [0]


def nodes_where(test: Callable[[onnx.ModelProto, onnx.NodeProto], bool]) -> Callable[[onnx.ModelProto], list[int]]:
    return lambda proto: [i for i, n in enumerate(proto.graph.node) if test(proto, n)]


def tensors_where(test: Callable[[onnx.TensorProto], bool]) -> Callable[[onnx.ModelProto], list[int]]:
    return lambda proto: [i for i, t in enumerate(proto.graph.initializer) if test(t)]


def maker(proto: onnx.ModelProto, tensor: str) -> onnx.NodeProto | None:
    return next((n for n in proto.graph.node if tensor in n.output), None)


def readers(proto: onnx.ModelProto, tensor: str) -> Names:
    return {n.name for n in proto.graph.node if tensor in n.input}


def is_output(proto: onnx.ModelProto, tensor: str) -> bool:
    return any(o.name == tensor for o in proto.graph.output)


def activation_dq(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    source = maker(proto, node.input[0])
    return node.op_type == "DequantizeLinear" and source is not None and source.op_type == "QuantizeLinear"


def per_channel(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    scale = next((t for t in proto.graph.initializer if len(node.input) > 1 and t.name == node.input[1]), None)
    return node.op_type == "DequantizeLinear" and scale is not None and len(scale.dims) == 1 and scale.dims[0] > 1


def quantizes(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return node.op_type == "QuantizeLinear"


def has_zero_point(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return activation_dq(proto, node) and len(node.input) > 2


def reads_a_node(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return any(maker(proto, t) is not None for t in node.input)


def is_read(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return any(readers(proto, t) for t in node.output)


def computes(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Something other than a constant comes out of it, which the version converter leaves as it is."""
    return node.op_type in ("Conv", "Gemm", "MatMul", "Gather", "ConvTranspose")


def of_type(*elements: int) -> Callable[[onnx.ModelProto], list[int]]:
    return tensors_where(lambda tensor: tensor.data_type in elements)


# ---- damage -------------------------------------------------------------------------------------


def add(proto: onnx.ModelProto, values: np.ndarray, name: str = "broken") -> str:
    proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def initial(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name))


def opset_lowered(version: int) -> Callable[[onnx.ModelProto, int], Names]:
    def apply(proto: onnx.ModelProto, site: int) -> Names:
        proto.opset_import[0].version = version
        return readers(proto, proto.graph.initializer[site].name)

    return apply


def ir_lowered(proto: onnx.ModelProto, site: int) -> Names:
    proto.ir_version = 7
    return {""}


def foreign_domain(proto: onnx.ModelProto, site: int) -> Names:
    proto.graph.node[site].domain = "com.example"
    return {proto.graph.node[site].name}


def input_edit(edit: Callable[[onnx.ValueInfoProto], object]) -> Callable[[onnx.ModelProto, int], Names]:
    def apply(proto: onnx.ModelProto, site: int) -> Names:
        edit(proto.graph.input[0])
        return readers(proto, proto.graph.input[0].name) | {""}

    return apply


def output_edit(edit: Callable[[onnx.ValueInfoProto], object]) -> Callable[[onnx.ModelProto, int], Names]:
    def apply(proto: onnx.ModelProto, site: int) -> Names:
        found = maker(proto, proto.graph.output[0].name)
        edit(proto.graph.output[0])
        return {found.name if found else "", ""}

    return apply


def renamed(info: onnx.ValueInfoProto) -> None:
    info.name = "another"


def retyped(info: onnx.ValueInfoProto) -> None:
    info.type.tensor_type.elem_type = TensorProto.DOUBLE


def fixed(info: onnx.ValueInfoProto) -> None:
    info.type.tensor_type.shape.dim[0].dim_value = 7


def other_symbol(info: onnx.ValueInfoProto) -> None:
    info.type.tensor_type.shape.dim[0].dim_param = "other"


def described(info: onnx.ValueInfoProto) -> None:
    info.doc_string = "another"


def inputs_swapped(proto: onnx.ModelProto, site: int) -> Names:
    first, second = proto.graph.input[0], proto.graph.input[1]
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)
    return readers(proto, first.name) | readers(proto, second.name)


def no_dq(proto: onnx.ModelProto, site: int) -> Names:
    dequantize = proto.graph.node[site]
    codes, result = dequantize.input[0], dequantize.output[0]
    for node in proto.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = codes if name == result else name
    quantize = maker(proto, codes)
    proto.graph.node.remove(dequantize)
    assert quantize is not None
    return {quantize.name}


def no_q(proto: onnx.ModelProto, site: int) -> Names:
    dequantize = proto.graph.node[site]
    quantize = maker(proto, dequantize.input[0])
    assert quantize is not None
    dequantize.input[0] = quantize.input[0]
    return {dequantize.name, quantize.name}


def dq_scale(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    node.input[1] = add(proto, initial(proto, node.input[1]) * np.float32(1.5))
    return {node.name}


def dq_zero_point(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    values = initial(proto, node.input[2])
    node.input[2] = add(proto, np.asarray(values.astype(np.float32) + 1).astype(values.dtype))
    return {node.name}


def scale_set(value: float) -> Callable[[onnx.ModelProto, int], Names]:
    def apply(proto: onnx.ModelProto, site: int) -> Names:
        name = proto.graph.node[site].input[1]
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), value, np.float32), name))
        return readers(proto, name)

    return apply


def scale_computed(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    total = helper.make_node("ReduceMax", [proto.graph.input[0].name], ["computed"], "computed", keepdims=0)
    proto.graph.node.insert(0, total)
    name = node.name
    node.input[1] = "computed"
    return {name}


def scale_typed(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    node.input[1] = add(proto, initial(proto, node.input[1]).astype(np.float64))
    return {node.name}


def zero_point_typed(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    node.input[2] = add(proto, np.zeros((), np.int32))
    return {node.name}


def zero_point_shaped(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    node.input[2] = add(proto, initial(proto, node.input[2]).reshape(1))
    return {node.name}


def scales_dropped(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    node.input[1] = add(proto, initial(proto, node.input[1])[:-1])
    if len(node.input) > 2:
        node.input[2] = add(proto, initial(proto, node.input[2])[:-1], "broken zeros")
    return {node.name}


def node_dropped(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    found = set().union(*(readers(proto, t) for t in node.output))
    proto.graph.node.remove(node)
    return found


def node_repeated(proto: onnx.ModelProto, site: int) -> Names:
    other = next(n for i, n in enumerate(proto.graph.node) if i != site)
    other.name = proto.graph.node[site].name
    return {other.name}


def node_unnamed(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    node.name = ""
    return {f"{node.op_type} -> {', '.join(node.output)}"}


def tensor_repeated(proto: onnx.ModelProto, site: int) -> Names:
    node = proto.graph.node[site]
    other = next(n for i, n in enumerate(proto.graph.node) if i != site)
    node.output[0] = other.output[0]
    return {node.name, other.name}


def constant_shadowed(proto: onnx.ModelProto, site: int) -> Names:
    add(proto, np.zeros(1, np.float32), proto.graph.node[site].output[0])
    return {proto.graph.node[site].name}


def moved_first(proto: onnx.ModelProto, site: int) -> Names:
    node = onnx.NodeProto()
    node.CopyFrom(proto.graph.node[site])
    del proto.graph.node[site]
    proto.graph.node.insert(0, node)
    return {node.name}


def node_added(proto: onnx.ModelProto, site: int) -> Names:
    made = helper.make_node("Identity", [proto.graph.input[0].name], ["nobody's"], "useless")
    proto.graph.node.append(made)
    return {"useless"}


def initializer_dropped(proto: onnx.ModelProto, site: int) -> Names:
    name = proto.graph.initializer[site].name
    del proto.graph.initializer[site]
    return readers(proto, name)


def initializer_added(proto: onnx.ModelProto, site: int) -> Names:
    add(proto, np.zeros(3, np.float32))
    return {""}


def bytes_dropped(proto: onnx.ModelProto, site: int) -> Names:
    tensor = proto.graph.initializer[site]
    tensor.raw_data = tensor.raw_data[:-1]
    return readers(proto, tensor.name)


def element_changed(proto: onnx.ModelProto, site: int) -> Names:
    proto.graph.initializer[site].data_type = TensorProto.INT16
    return readers(proto, proto.graph.initializer[site].name)


def nan_stored(proto: onnx.ModelProto, site: int) -> Names:
    tensor = proto.graph.initializer[site]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return readers(proto, tensor.name)


def noted_wrongly(shape: Sequence[int], element: int) -> Callable[[onnx.ModelProto, int], Names]:
    def apply(proto: onnx.ModelProto, site: int) -> Names:
        node = proto.graph.node[site]
        proto.graph.value_info.append(helper.make_tensor_value_info(node.output[0], element, shape))
        return {node.name}

    return apply


def attribute_unknown(proto: onnx.ModelProto, site: int) -> Names:
    proto.graph.node[site].attribute.append(helper.make_attribute("no such attribute", 1))
    return {proto.graph.node[site].name}


def metadata_lost(proto: onnx.ModelProto, site: int) -> Names:
    del proto.metadata_props[:]
    return {""}


def description_lost(proto: onnx.ModelProto, site: int) -> Names:
    proto.doc_string = ""
    return {""}


def _float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and tensor.HasField("raw_data")


def _raw(tensor: onnx.TensorProto) -> bool:
    return len(tensor.raw_data) > 0


def _inner(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return activation_dq(proto, node) and not any(is_output(proto, t) for t in node.output)


def _two_inputs(proto: onnx.ModelProto) -> list[int]:
    return [0] if len(proto.graph.input) > 1 else []


def _noted(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return computes(proto, node) and not any(is_output(proto, t) for t in node.output)


def mutations() -> Iterator[Mutation]:
    yield Mutation("int4_before_opset_21", "tensor-opset", of_type(TensorProto.INT4), opset_lowered(20))
    yield Mutation("float8_before_opset_19", "tensor-opset", of_type(TensorProto.FLOAT8E4M3FN), opset_lowered(18))
    yield Mutation("ir_version", "ir-version", anywhere, ir_lowered)
    yield Mutation("domain_not_imported", "domains", nodes_where(computes), foreign_domain)
    yield Mutation("attribute", "valid", nodes_where(computes), attribute_unknown)
    for name, edit in (
        ("name", renamed),
        ("type", retyped),
        ("size", fixed),
        ("symbol", other_symbol),
        ("description", described),
    ):
        yield Mutation(f"input_{name}", "inputs", anywhere, input_edit(edit))
        yield Mutation(f"output_{name}", "outputs", anywhere, output_edit(edit))
    yield Mutation("inputs_swapped", "inputs", _two_inputs, inputs_swapped)
    yield Mutation("metadata_lost", "metadata", anywhere, metadata_lost)
    yield Mutation("description_lost", "metadata", anywhere, description_lost)
    yield Mutation("q_without_dq", "pairs", nodes_where(_inner), no_dq)
    yield Mutation("dq_without_q", "pairs", nodes_where(activation_dq), no_q)
    yield Mutation("dq_on_another_scale", "pairs", nodes_where(activation_dq), dq_scale)
    yield Mutation("dq_on_another_zero_point", "pairs", nodes_where(has_zero_point), dq_zero_point)
    for value in (np.nan, np.inf, 0.0):
        yield Mutation(f"scale_{value}", "scale-values", nodes_where(per_channel), scale_set(value))
    for value in (np.nan, np.inf, 0.0, -1.0):
        yield Mutation(f"activation_scale_{value}", "scale-values", nodes_where(quantizes), scale_set(value))
    yield Mutation("scale_computed", "scale-values", nodes_where(quantizes), scale_computed)
    yield Mutation("scale_type", "scale-types", nodes_where(activation_dq), scale_typed)
    yield Mutation("zero_point_type", "scale-types", nodes_where(has_zero_point), zero_point_typed)
    yield Mutation("zero_point_shape", "zero-point-shapes", nodes_where(has_zero_point), zero_point_shaped)
    yield Mutation("scale_count", "scale-shapes", nodes_where(per_channel), scales_dropped)
    yield Mutation("node_missing", "dangling", nodes_where(is_read), node_dropped)
    yield Mutation("initializer_missing", "dangling", tensors_where(lambda t: True), initializer_dropped)
    yield Mutation("initializer_unused", "unused-initializers", anywhere, initializer_added)
    yield Mutation("node_name_twice", "node-names", lambda p: range(len(p.graph.node) - 1), node_repeated)
    yield Mutation("node_without_name", "node-names", nodes_where(lambda p, n: True), node_unnamed)
    yield Mutation("tensor_made_twice", "tensor-names", lambda p: range(1, len(p.graph.node)), tensor_repeated)
    yield Mutation("constant_of_a_node's_name", "tensor-names", nodes_where(lambda p, n: True), constant_shadowed)
    yield Mutation("order", "order", nodes_where(reads_a_node), moved_first)
    yield Mutation("dead_node", "dead-nodes", anywhere, node_added)
    yield Mutation("too_few_bytes", "stored", tensors_where(_raw), bytes_dropped)
    yield Mutation("codes_declared_int16", "stored", of_type(TensorProto.INT8, TensorProto.INT4), element_changed)
    yield Mutation("nan_weight", "stored", tensors_where(_float), nan_stored)
    yield Mutation("type_noted", "value-info", nodes_where(_noted), noted_wrongly([1], TensorProto.INT64))
    yield Mutation("rank_noted", "value-info", nodes_where(_noted), noted_wrongly([1] * 7, TensorProto.FLOAT))


MUTATIONS = tuple(mutations())
