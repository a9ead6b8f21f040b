"""Constant folding and folding of BatchNorm (and per-channel Mul/Add) into the convolution or Gemm before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.model.descriptions import keep_descriptions
from onnxmpq.model.gemm import simplify_gemms
from onnxmpq.model.operators import OPERATORS

Origin = dict[str, tuple[str, ...]]
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]  # per-channel factor and offset

_NO_VALUES = np.empty(0, np.float32)
_FOLDABLE = {name: row.affine_axis for name, row in OPERATORS.items() if row.affine_axis is not None}


def fold(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Origin]:
    """Fold constants and per-channel affine nodes.

    Returns the folded proto and, for every remaining node, the names of the original nodes it stands for.
    """
    logging.getLogger("onnx_graphsurgeon").setLevel(logging.ERROR)
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR
    graph = gs.import_onnx(proto)
    graph.fold_constants(error_ok=True).cleanup()
    origin: Origin = {node.name: (node.name,) for node in graph.nodes}
    _skip_identities(graph)
    origin |= {new: (gemm,) for new, gemm in simplify_gemms(graph).items()}
    for node in list(graph.nodes):
        if node.op in _FOLDABLE and _has_constant_weight(node):
            while (affine := _following_affine(node, graph)) is not None:
                _absorb(node, *affine, origin)
    graph.cleanup().toposort()
    folded = gs.export_onnx(graph, do_type_check=False)
    keep_descriptions(proto, folded)
    folded.ir_version = max(proto.ir_version, folded.ir_version if proto.ir_version == 0 else proto.ir_version)
    return folded, {node.name: origin[node.name] for node in graph.nodes}


def drop_values(tensors: Iterable[gs.Tensor]) -> None:
    """End the use of constants. All that onnx-graphsurgeon makes refers to itself, so values would stay in memory until
    the garbage collector comes by, which does not know how large they are."""
    for tensor in tensors:
        if isinstance(tensor, gs.Constant):
            tensor.values = _NO_VALUES


def _has_constant_weight(node: gs.Node) -> bool:
    weight = node.inputs[1]
    bias_is_constant = len(node.inputs) < 3 or isinstance(node.inputs[2], gs.Constant)
    return isinstance(weight, gs.Constant) and weight.dtype == np.float32 and bias_is_constant


def _skip_identities(graph: gs.Graph) -> None:
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        removable = node.op == "Identity" or (node.op == "Dropout" and len(node.outputs) == 1)
        if not removable or not node.inputs[0].inputs:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if id(result) in outputs:
            if id(source) in outputs or len(source.outputs) > 1 or len(source.inputs[0].outputs) > 1:
                continue  # keep it where renaming would change another output
            source.inputs[0].outputs = [result]
        else:
            for consumer in list(result.outputs):
                consumer.inputs = [source if t is result else t for t in consumer.inputs]
        node.outputs.clear()


def _following_affine(node: gs.Node, graph: gs.Graph) -> tuple[gs.Node, Affine] | None:
    """The only consumer of `node`, if it is a per-channel affine map with constants."""
    result = node.outputs[0]
    if len(result.outputs) != 1 or any(result is o for o in graph.outputs):
        return None
    follower = result.outputs[0]
    reader = _READERS.get(follower.op)
    axis = _FOLDABLE[node.op]
    channels = node.inputs[1].shape[axis] * (node.attrs.get("group", 1) if axis == 1 else 1)
    rank = len(node.inputs[1].shape)
    affine = reader(follower, channels, rank) if reader else None
    return (follower, affine) if affine else None


def _read_batchnorm(node: gs.Node, channels: int, rank: int) -> Affine | None:
    if len(node.outputs) > 1 or node.attrs.get("training_mode", 0):
        return None
    values = [t.values.astype(np.float64) if isinstance(t, gs.Constant) else None for t in node.inputs[1:5]]
    scale, offset, mean, variance = values
    if scale is None or offset is None or mean is None or variance is None:
        return None
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return factor, offset - mean * factor


def _per_channel_constant(node: gs.Node, channels: int, rank: int) -> NDArray[np.float64] | None:
    constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
    if len(constants) != 1 or constants[0].dtype != np.float32:
        return None
    values = constants[0].values.astype(np.float64)
    if values.size == 1 and values.ndim <= rank:
        return np.full(channels, values.item())
    shape = (1,) * (rank - values.ndim) + values.shape
    if len(shape) == rank and shape[1] == channels and values.size == channels:
        return np.asarray(values.reshape(channels))
    return None


def _read_mul(node: gs.Node, channels: int, rank: int) -> Affine | None:
    factor = _per_channel_constant(node, channels, rank)
    return None if factor is None else (factor, np.zeros(channels))


def _read_add(node: gs.Node, channels: int, rank: int) -> Affine | None:
    offset = _per_channel_constant(node, channels, rank)
    return None if offset is None else (np.ones(channels), offset)


_READERS: dict[str, Callable[[gs.Node, int, int], Affine | None]] = {
    "BatchNormalization": _read_batchnorm,
    "Mul": _read_mul,
    "Add": _read_add,
}


def _absorb(node: gs.Node, follower: gs.Node, affine: Affine, origin: Origin) -> None:
    factor, offset = affine
    axis, groups = _FOLDABLE[node.op], node.attrs.get("group", 1)
    weight = node.inputs[1].values.astype(np.float64)
    if axis == 0:
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # ConvTranspose: [in, out / groups, ...], input channels are split into groups
        per_group = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (weight.reshape(groups, -1, *weight.shape[1:]) * per_group).reshape(weight.shape)
    bias = node.inputs[2].values.astype(np.float64) if len(node.inputs) > 2 else np.zeros(len(factor))
    node.inputs[1] = gs.Constant(f"{node.name}/weight_folded", scaled.astype(np.float32))
    new_bias = gs.Constant(f"{node.name}/bias_folded", (bias * factor + offset).astype(np.float32))
    node.inputs = [node.inputs[0], node.inputs[1], new_bias]
    result = follower.outputs[0]
    follower.outputs.clear()
    follower.inputs.clear()
    node.outputs[0] = result
    origin[node.name] = (*origin[node.name], follower.name)
