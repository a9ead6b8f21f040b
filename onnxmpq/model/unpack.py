"""Weights that a model already has in blocks (MatMulNBits, GatherBlockQuantized), as float32 constants of plain nodes.

Source of the layouts: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model.store import WeightStore
from onnxmpq.model.tidy import defined_in, free_name, subgraphs

BLOCKED = frozenset({"MatMulNBits", "GatherBlockQuantized"})
"""Operators that multiply with, or look up, weights as they are stored; what they read and make is float."""
DOMAIN = "com.microsoft"
_PACKED = (TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
_ROUNDING_LEVEL = 4
Float32 = NDArray[np.float32]


def blocked_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Those of the outermost graph."""
    return [n for n in proto.graph.node if n.domain == DOMAIN and n.op_type in BLOCKED]


def stored_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of the constants that such nodes read, each once."""
    read = {t for n in blocked_nodes(proto) for t in n.input}
    return sum(constant_bytes(t) for t in proto.graph.initializer if t.name in read)


def constant_bytes(tensor: TensorProto) -> int:
    """Of a constant, from its type and shape alone."""
    count = int(np.prod(tensor.dims, dtype=np.int64))
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
        return -(-count // 2)
    return count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def rounds_activations(proto: onnx.ModelProto) -> bool:
    """True if such a node may round what it reads to int8."""
    return any(_attributes(n).get("accuracy_level", 0) == _ROUNDING_LEVEL for n in blocked_nodes(proto))


def unpacked(store: WeightStore) -> onnx.ModelProto:
    """The structure with MatMul and Gather in the place of such nodes; new constants have their values.

    Nodes keep their names and results. Those stay that have an order of inputs (g_idx), or whose weights are computed.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(store.structure)
    taken = {t for graph in subgraphs(proto.graph) for t in (*defined_in(graph), *(n.name for n in graph.node))}
    made: dict[tuple[str, ...], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        plain = _plain(node, store, proto, made, taken) if node.domain == DOMAIN and node.op_type in BLOCKED else None
        nodes += [node] if plain is None else plain
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    read = {t for graph in subgraphs(proto.graph) for n in graph.node for t in n.input}
    read.update(o.name for o in proto.graph.output)
    kept = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


def _plain(
    node: onnx.NodeProto,
    store: WeightStore,
    proto: onnx.ModelProto,
    made: dict[tuple[str, ...], str],
    taken: set[str],
) -> list[onnx.NodeProto] | None:
    """The node as plain ones, whose weight is added to the graph; None where it stays. made: by what a weight was
    unfolded from, so that nodes that share it go on to do so."""
    multiplies = node.op_type == "MatMulNBits"
    inputs = [*node.input, *[""] * (6 - len(node.input))]
    codes, scales, zeros = (inputs[1], inputs[2], inputs[3]) if multiplies else (inputs[0], inputs[2], inputs[3])
    constants = [t for t in (codes, scales, zeros) if t]
    if any(t not in store for t in constants) or (multiplies and inputs[4]):
        return None
    attributes = _attributes(node)
    key = (*constants, node.op_type, *(f"{n}={attributes.get(n)}" for n in ("K", "N", "bits", "block_size")))
    if key not in made:
        unfold = _multiplied if multiplies else _looked_up
        weight = unfold(attributes, store[codes], store[scales], store[zeros] if zeros else None)
        if weight is None:
            return None
        made[key] = free_name(f"{codes}/float32", taken)
        proto.graph.initializer.append(numpy_helper.from_array(weight, made[key]))
    if not multiplies:
        return [helper.make_node("Gather", [made[key], inputs[1]], node.output, node.name, axis=0)]
    bias, result = inputs[5], node.output[0]
    if not bias:
        return [helper.make_node("MatMul", [inputs[0], made[key]], [result], node.name)]
    product = free_name(f"{result}/product", taken)
    return [
        helper.make_node("MatMul", [inputs[0], made[key]], [product], node.name),
        helper.make_node("Add", [product, bias], [result], free_name(f"{node.name}/bias", taken)),
    ]


def _multiplied(
    attributes: Mapping[str, Any], codes: TensorProto, scales: TensorProto, zeros: TensorProto | None
) -> Float32 | None:
    """float32 [K, N] of MatMulNBits."""
    outputs, inputs = int(attributes["N"]), int(attributes["K"])
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    blocks = -(-inputs // block)
    if codes.data_type != TensorProto.UINT8:
        return None
    values = _fields(numpy_helper.to_array(codes).reshape(outputs, blocks, -1), bits).astype(np.float32)
    steps = numpy_helper.to_array(scales).astype(np.float32).reshape(outputs, blocks, 1)
    values -= _zero_points(zeros, bits, (outputs, blocks))[..., None]
    values *= steps
    return np.ascontiguousarray(values.reshape(outputs, blocks * block)[:, :inputs].T)


def _looked_up(
    attributes: Mapping[str, Any], codes: TensorProto, scales: TensorProto, zeros: TensorProto | None
) -> Float32 | None:
    """float32 [rows, width] of GatherBlockQuantized; None for a table of another rank, or whose blocks are along
    another axis."""
    axes = attributes.get("gather_axis", 0), attributes.get("quantize_axis", 1)
    if codes.data_type not in _PACKED or len(codes.dims) != 2 or axes not in ((0, 1), (0, -1)):
        return None
    bits = int(attributes.get("bits", 4))
    stored = numpy_helper.to_array(codes)
    values = (_fields(stored, bits) if codes.data_type == TensorProto.UINT8 else stored).astype(np.float32)
    steps = numpy_helper.to_array(scales).astype(np.float32)
    block = int(attributes.get("block_size", 128))
    if zeros is not None or codes.data_type == TensorProto.UINT8:
        middles = _zero_points(zeros, bits, (len(values), steps.shape[1]))
        values -= np.repeat(middles, block, axis=1)[:, : values.shape[1]]
    return values * np.repeat(steps, block, axis=1)[:, : values.shape[1]]


def _fields(stored: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Codes of so many bits from bytes, lowest bits first, along the last axis."""
    raw = np.asarray(stored, np.uint8)
    if bits == 8:
        return raw
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = raw[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return parts.reshape(*raw.shape[:-1], -1)


def _zero_points(zeros: TensorProto | None, bits: int, shape: tuple[int, int]) -> Float32:
    """float32 of this shape. Packed ones fill up each row to a whole byte; without any they are the middle."""
    if zeros is None:
        return np.full(shape, np.float32(1 << bits - 1))
    stored = numpy_helper.to_array(zeros)
    if zeros.data_type == TensorProto.UINT8:
        stored = _fields(stored.reshape(shape[0], -1), bits)
    return stored.reshape(shape[0], -1)[:, : shape[1]].astype(np.float32)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
