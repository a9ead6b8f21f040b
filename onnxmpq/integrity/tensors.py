"""Nodes, tensors and initializers of a written graph: named once, made before they are read, stored as declared."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxmpq.lint import FLOAT8, FOUR_BIT, STANDARD_DOMAINS, Graph, Hit, label, type_name
from onnxmpq.model import is_reference, shell, with_values

_FLOAT4 = frozenset({TensorProto.FLOAT4E2M1})
_ELEMENT_VERSIONS = (  # element types, the opset and the IR version that first have them (onnx.proto)
    (frozenset({TensorProto.BFLOAT16}), 13, 4),
    (FLOAT8, 19, 9),
    (FOUR_BIT, 21, 10),
    (_FLOAT4, 23, 11),
)
_BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8, *FLOAT8), 8),
    **dict.fromkeys((TensorProto.INT16, TensorProto.UINT16, TensorProto.FLOAT16, TensorProto.BFLOAT16), 16),
    **dict.fromkeys((TensorProto.INT32, TensorProto.UINT32, TensorProto.FLOAT), 32),
    **dict.fromkeys((TensorProto.INT64, TensorProto.UINT64, TensorProto.DOUBLE, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((*FOUR_BIT, *_FLOAT4), 4),
}
_FLOATS: dict[int, type] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}
Parts = Sequence[Graph]


# ---- versions ---------------------------------------------------------------------------------------


def opset_holds_types(parts: Parts) -> Iterator[Hit]:
    """Initializers are of types that the model's opset has."""
    for graph, tensor in _initializers(parts):
        for elements, opset, _ in _ELEMENT_VERSIONS:
            if tensor.data_type in elements and graph.opset < opset:
                yield (
                    _reader(parts, tensor.name),
                    f"{tensor.name!r} is {type_name(tensor.data_type)}, which needs opset {opset}; it is {graph.opset}",
                )


def ir_version(parts: Parts) -> Iterator[Hit]:
    """The IR version is that of the opset or newer, and has the types of the initializers."""
    model = parts[0].model
    needed, why = 3, "ONNX"
    with contextlib.suppress(ValueError):  # a domain or version that this onnx does not know
        standard = [o for o in model.opset_import if o.domain in STANDARD_DOMAINS]
        needed, why = onnx.helper.find_min_ir_version_for(standard), f"opset {parts[0].opset}"
    for _, tensor in _initializers(parts):
        for elements, _, version in _ELEMENT_VERSIONS:
            if tensor.data_type in elements and version > needed:
                needed, why = version, f"{type_name(tensor.data_type)} of {tensor.name!r}"
    if model.ir_version < needed:
        yield "", f"{why} needs IR version {needed}; it is {model.ir_version}"


def domains(parts: Parts) -> Iterator[Hit]:
    """Every domain that a node uses is imported."""
    imported = {_domain(o.domain) for o in parts[0].model.opset_import}
    for graph in parts:
        for node in graph.nodes:
            if _domain(node.domain) not in imported:
                yield label(node), f"the model imports no opset of domain {node.domain!r}"


def _domain(name: str) -> str:
    return "" if name in STANDARD_DOMAINS else name


# ---- names ------------------------------------------------------------------------------------------


def node_names(parts: Parts) -> Iterator[Hit]:
    """Every node has a name of its own, in the main graph and all bodies."""
    count = Counter(node.name for graph in parts for node in graph.nodes)
    for graph in parts:
        for node in graph.nodes:
            if not node.name:
                yield label(node), f"{node.op_type} has no name"
            elif count[node.name] > 1:
                yield label(node), f"{count[node.name]} nodes have this name"


def tensor_names(parts: Parts) -> Iterator[Hit]:
    """A tensor is made once: by a node, an initializer or an input, in the main graph and all bodies."""
    makers: dict[str, list[str]] = {}
    for graph in parts:
        constants = [t.name for t in graph.proto.initializer]
        for name in (*constants, *(graph.inputs - set(constants))):
            makers.setdefault(name, []).append("")
        for node in graph.nodes:
            for name in node.output:
                if name:
                    makers.setdefault(name, []).append(label(node))
    for name, found in makers.items():
        if len(found) > 1:
            yield found[-1] or _reader(parts, name), f"tensor {name!r} is made {len(found)} times"


# ---- links ------------------------------------------------------------------------------------------


def dangling(parts: Parts) -> Iterator[Hit]:
    """Whatever is read or handed out is an input, an initializer or made by a node."""
    for graph in parts:
        known = _known(graph)
        for node in graph.nodes:
            for name in node.input:
                if name and name not in known:
                    yield label(node), f"reads {name!r}, which nothing makes"
        for output in graph.proto.output:
            if output.name not in known:
                yield "", f"output {output.name!r} is made by nothing"


def dead_nodes(parts: Parts) -> Iterator[Hit]:
    """Of every node at least one result is read or handed out."""
    read = _read_anywhere(parts)
    for graph in parts:
        for node in graph.nodes:
            if not any(t in read for t in node.output if t):
                yield label(node), f"nothing reads its result {', '.join(repr(t) for t in node.output)}"


def unused_initializers(parts: Parts) -> Iterator[Hit]:
    """Every initializer is read."""
    read = _read_anywhere(parts)
    for _, tensor in _initializers(parts):
        if tensor.name not in read:
            yield "", f"nothing reads initializer {tensor.name!r}"


def order(parts: Parts) -> Iterator[Hit]:
    """Nodes stand behind those whose results they read, also in their bodies."""
    for graph in parts:
        place = {t: number for number, node in enumerate(graph.nodes) for t in node.output if t}
        for number, node in enumerate(graph.nodes):
            late = next((t for t in _reads(node) if place.get(t, -1) >= number), None)
            if late is not None:
                yield label(node), f"reads {late!r}, which is made later or by itself"


def _known(graph: Graph | None) -> set[str]:
    if graph is None:
        return set()
    sparse = {t.values.name for t in graph.proto.sparse_initializer}
    return {*graph.inputs, *(t.name for t in graph.proto.initializer), *sparse, *graph.makers, *_known(graph.outer)}


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node reads, and that its bodies take from outside."""
    yield from (t for t in node.input if t)
    for attribute in node.attribute:
        for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            own = {i.name for i in body.input} | {t.name for t in body.initializer}
            own |= {t for inner in body.node for t in inner.output}
            yield from (t for inner in body.node for t in _reads(inner) if t not in own)
            yield from (o.name for o in body.output if o.name not in own)


def _read_anywhere(parts: Parts) -> set[str]:
    return {t for graph in parts for t in (*graph.uses, *graph.outputs)}


def _reader(parts: Parts, tensor: str) -> str:
    """The first node that reads a tensor; "" if none does."""
    return next((label(g.uses[tensor][0].node) for g in parts if tensor in g.uses), "")


# ---- values -----------------------------------------------------------------------------------------


def stored(parts: Parts) -> Iterator[Hit]:
    """Initializers hold as many bytes as their shape and type say, and floating-point ones no NaN or infinity."""
    for _, tensor in _initializers(parts):
        fault = _stored_wrongly(tensor)
        if fault:
            yield _reader(parts, tensor.name), f"initializer {tensor.name!r} {fault}"


def _stored_wrongly(tensor: onnx.TensorProto) -> str:
    if is_reference(tensor):
        if tensor.data_type not in _FLOATS:
            return ""  # its length was that of its shape when it was written
        tensor = with_values(tensor, None)
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.STRING:
        return ""
    if tensor.HasField("raw_data") and tensor.data_type in _BITS:
        wanted = -(-int(np.prod(tensor.dims, dtype=np.int64)) * _BITS[tensor.data_type] // 8)
        if len(tensor.raw_data) != wanted:
            return (
                f"is {type_name(tensor.data_type)}{list(tensor.dims)}: {wanted} bytes, but has {len(tensor.raw_data)}"
            )
    try:
        if tensor.data_type in _FLOATS and tensor.HasField("raw_data"):
            values: NDArray[np.generic] = np.frombuffer(tensor.raw_data, _FLOATS[tensor.data_type])
        elif tensor.HasField("raw_data"):
            return ""
        else:
            values = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        return f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    if tensor.data_type in _FLOATS and not np.all(np.isfinite(values)):
        return "has NaN or infinite values"
    return ""


def value_info(parts: Parts) -> Iterator[Hit]:
    """Types and shapes noted for tensors between nodes are those that inference finds."""
    graph = parts[0]
    if not graph.proto.value_info:
        return
    bare = shell(graph.model)
    del bare.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(bare).graph.value_info
    except Exception:  # its own types, RuntimeError, ValueError; a graph so damaged has other faults
        return
    found = {i.name: i.type.tensor_type for i in inferred if i.type.HasField("tensor_type")}
    for info in graph.proto.value_info:
        if info.type.HasField("tensor_type") and info.name in found:
            noted, true = info.type.tensor_type, found[info.name]
            if _contradicts(noted, true):
                maker = graph.makers.get(info.name)
                yield label(maker) if maker else "", f"the type or shape noted for {info.name!r} is not what it is"


def _contradicts(noted: onnx.TypeProto.Tensor, true: onnx.TypeProto.Tensor) -> bool:
    if noted.elem_type and true.elem_type and noted.elem_type != true.elem_type:
        return True
    if not (noted.HasField("shape") and true.HasField("shape")):
        return False
    if len(noted.shape.dim) != len(true.shape.dim):
        return True
    return any(
        a.HasField("dim_value") and b.HasField("dim_value") and a.dim_value != b.dim_value
        for a, b in zip(noted.shape.dim, true.shape.dim, strict=True)
    )


def _initializers(parts: Parts) -> Iterator[tuple[Graph, onnx.TensorProto]]:
    for graph in parts:
        for tensor in graph.proto.initializer:
            yield graph, tensor
