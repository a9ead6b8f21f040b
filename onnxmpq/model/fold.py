"""Constant folding and folding of BatchNorm (and per-channel Mul/Add) into the convolution or Gemm before it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.model.branches import with_branches
from onnxmpq.model.descriptions import keep_descriptions
from onnxmpq.model.einsum import simplify_einsums
from onnxmpq.model.gemm import simplify_gemms
from onnxmpq.model.index import GraphIndex
from onnxmpq.model.operators import OPERATORS
from onnxmpq.model.random import draws, random_tensors
from onnxmpq.model.shell import LARGEST_KEPT
from onnxmpq.model.store import WeightStore
from onnxmpq.model.surgeon import described_again, export, imported, read_values
from onnxmpq.model.tidy import free_name

Origin = dict[str, tuple[str, ...]]
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]  # per-channel factor and offset

_STANDARD = (None, "", "ai.onnx")
_GROWING = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "OneHot", "Pad", "Resize", "Upsample"})
MOST_COMPUTED = 2**28  # elements of any result of constants; with more, none is folded
MOST_FOLDED = 2**22  # elements of a folded constant, where the model's own are fewer together
_FOLDABLE = {name: row.affine_axis for name, row in OPERATORS.items() if row.affine_axis is not None}


@dataclass(frozen=True)
class Folds:
    """Kinds of folding. constants: nodes that only read constants. identities: Identity and idle Dropout nodes.
    factors: BatchNormalization, Mul and Add per channel. gemms: Gemm in every form, to its simplest. einsums: Einsum
    with a constant, to MatMul."""

    constants: bool = True
    identities: bool = True
    factors: bool = True
    gemms: bool = True
    einsums: bool = True


def fold(store: WeightStore, folds: Folds) -> tuple[WeightStore, Origin]:
    """Fold constants, branches that are always taken, and per-channel affine nodes.

    Returns the folded graph and, for every remaining node, the names of the original nodes it stands for. Large
    constants are read only where their values go into others.
    """
    folded, origin, waiting = _folded(store, folds)
    while folds.constants:
        before, taken = waiting, with_branches(folded.structure)
        if taken is None and not before:
            break
        folded, more, waiting = _folded(folded if taken is None else folded.follow(taken), folds)
        waiting = waiting if waiting != before else set()
        origin = {n: tuple(o for part in parts for o in origin.get(part, (part,))) for n, parts in more.items()}
    return folded, origin


def _folded(store: WeightStore, folds: Folds) -> tuple[WeightStore, Origin, set[str]]:
    """The folded graph, its origin, and nodes that may be folded once the constants that they read are known."""
    logging.getLogger("onnx_graphsurgeon").setLevel(logging.ERROR)
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR
    proto = store.structure
    index = GraphIndex(proto)
    graph = imported(store)
    waiting = _fold_constants(graph, index, random_tensors(proto.graph)) if folds.constants else set()
    graph.cleanup()
    origin: Origin = {node.name: (node.name,) for node in graph.nodes}
    if folds.identities:
        _skip_identities(graph)
    if folds.gemms:
        origin |= {new: (gemm,) for new, gemm in simplify_gemms(graph).items()}
    if folds.einsums:
        origin |= {new: (einsum,) for new, einsum in simplify_einsums(graph).items()}
    taken = {*graph.tensors()}
    for node in list(graph.nodes) if folds.factors else ():
        if node.op in _FOLDABLE and node.domain in _STANDARD and _has_constant_weight(node):
            while (affine := _following_affine(node, graph)) is not None and _absorb(node, *affine, origin, taken):
                pass
    graph.cleanup().toposort(mode="nodes")
    described_again(graph, store)
    folded = export(graph, proto)
    keep_descriptions(proto, folded)
    folded.ir_version = max(proto.ir_version, folded.ir_version if proto.ir_version == 0 else proto.ir_version)
    return store.follow(folded), {node.name: origin[node.name] for node in graph.nodes}, waiting


def _fold_constants(graph: gs.Graph, index: GraphIndex, drawn: set[str]) -> set[str]:
    """Replace what does not depend on the inputs by constants.

    Not by onnx-graphsurgeon's own folding of shapes: that also turns Cast(int to float), Mul(0.5), Cast(int) into a
    product of integers, with 0.5 as 0. Nodes that draw random numbers, and those that make much out of little, stay.
    drawn: tensors that depend on random numbers. Returns the nodes that read constants alone and make much or little,
    which shows when these are computed.
    """
    waiting = set[str]()
    for node in graph.nodes:
        if node.op == "Shape" and node.domain in _STANDARD:
            _fold_shape(node, index)
    _require_moderate(index)
    largest = max(MOST_FOLDED, sum(math.prod(t.dims) for t in index.constants.values()))

    def stays(node: gs.Node) -> bool:
        random = draws(node.op, node.domain or "") or any(t.name in drawn for t in node.outputs)
        unknown = node.op in _GROWING and any(index.shape(t.name) is None for t in node.outputs)
        if unknown:
            waiting.add(node.name)
        growing = (node.op in _GROWING and _grows(node, index)) or _elements(node, index) > largest
        return random or unknown or growing or not all(_is_tensor(t.name, index) for t in node.outputs)

    graph.cleanup()
    _read_for_folding(graph, stays)
    graph.fold_constants(
        fold_shapes=False,
        error_ok=True,
        partitioning="recursive",
        should_exclude_node=stays,
        flatten_subgraphs=False,  # see take_branches; nested ones come out broken
        recurse_functions=False,
    )
    return waiting


def _read_for_folding(graph: gs.Graph, stays: Callable[[gs.Node], bool], known: frozenset[int] = frozenset()) -> None:
    """Read the constants of nodes that will be folded: onnx-graphsurgeon hands them to a session as they are."""
    made = set(known)
    for node in graph.nodes:
        if all(isinstance(t, gs.Constant) or id(t) in made for t in node.inputs) and not stays(node):
            made.update(id(t) for t in node.outputs)
            read_values(t for t in node.inputs if isinstance(t, gs.Constant))
        for body in node.subgraphs():
            _read_for_folding(body, stays, frozenset(made))


def _fold_shape(node: gs.Node, index: GraphIndex) -> None:
    """A Shape of known sizes as a constant; of those that are not, the sizes that are picked out of it by a Gather."""
    shape, result = index.shape(node.inputs[0].name), node.outputs[0]
    if shape is None or result.name in index.outputs:
        return
    sizes = shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    if all(s is not None for s in sizes):
        node.outputs.clear()
        result.to_constant(np.array(sizes, np.int64))
        return
    for reader in list(result.outputs):
        place = reader.inputs[1] if reader.op == "Gather" and reader.domain in _STANDARD else None
        if not isinstance(place, gs.Constant) or reader.outputs[0].name in index.outputs:
            continue
        places = np.asarray(place.values)
        if ((-len(sizes) <= places) & (places < len(sizes))).all():
            picked = [sizes[int(p)] for p in places.ravel()]
            if all(p is not None for p in picked):
                picked_out = reader.outputs[0]
                reader.outputs.clear()
                picked_out.to_constant(np.array(picked, np.int64).reshape(places.shape))


def _is_tensor(name: str, index: GraphIndex) -> bool:
    """False for sequences and optionals, which cannot be constants."""
    return name not in index.infos or index.infos[name].type.WhichOneof("value") in (None, "tensor_type")


def _grows(node: gs.Node, index: GraphIndex) -> bool:
    """True if the result would take more than LARGEST_KEPT elements, and more than there are in the node's inputs."""
    read = max((int(np.prod(t.shape)) for t in node.inputs if isinstance(t, gs.Constant)), default=0)
    return _elements(node, index) > max(LARGEST_KEPT, read)


def _require_moderate(index: GraphIndex) -> None:
    """ValueError where constants give a result of more than MOST_COMPUTED elements.

    Folding runs all nodes that read constants alone in one session, and onnxruntime computes even those whose results
    nobody asked for.
    """
    known = {*index.constants, ""}
    for node in index.nodes:
        if all(t in known for t in node.input):
            known.update(node.output)
            for tensor in node.output:
                count = math.prod(d or 1 for d in index.shape(tensor) or ())
                if count > MOST_COMPUTED:
                    raise ValueError(f"node {node.name!r} makes {count} values out of constants")


def _elements(node: gs.Node, index: GraphIndex) -> int:
    """Of the node's first result, 0 where they are not known."""
    shape = index.shape(node.outputs[0].name) if node.outputs else None
    return math.prod(d or 1 for d in shape) if shape is not None else 0


def _has_constant_weight(node: gs.Node) -> bool:
    weight = node.inputs[1]
    bias_is_constant = len(node.inputs) < 3 or isinstance(node.inputs[2], gs.Constant)
    return isinstance(weight, gs.Constant) and weight.dtype == np.float32 and bias_is_constant


def _skip_identities(graph: gs.Graph) -> None:
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        removable = node.op == "Identity" or (node.op == "Dropout" and len(node.outputs) == 1 and _idle(node))
        if not removable or node.domain not in _STANDARD or not node.inputs[0].inputs:
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


def _idle(dropout: gs.Node) -> bool:
    """True unless it may be in training, which an input says from opset 12 on."""
    training = dropout.inputs[2] if len(dropout.inputs) > 2 else None
    return training is None or (isinstance(training, gs.Constant) and not np.any(training.values))


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
    if math.prod(constants[0].shape) not in (1, channels):
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


def _absorb(node: gs.Node, follower: gs.Node, affine: Affine, origin: Origin, taken: set[str]) -> bool:
    """Multiply the map into the layer before it. False, with nothing done, where float32 cannot hold the result."""
    factor, offset = affine
    axis, groups = _FOLDABLE[node.op], node.attrs.get("group", 1)
    weight = node.inputs[1].values.astype(np.float64)
    if axis == 0:
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # ConvTranspose: [in, out / groups, ...], input channels are split into groups
        per_group = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (weight.reshape(groups, -1, *weight.shape[1:]) * per_group).reshape(weight.shape)
    bias = node.inputs[2].values.astype(np.float64) if len(node.inputs) > 2 else np.zeros(len(factor))
    shifted = bias * factor + offset
    with np.errstate(over="ignore"):
        new_weight, new_bias = scaled.astype(np.float32), shifted.astype(np.float32)
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return False
    weight_name, bias_name = (free_name(f"{node.name}/{part}_folded", taken) for part in ("weight", "bias"))
    node.inputs = [node.inputs[0], gs.Constant(weight_name, new_weight), gs.Constant(bias_name, new_bias)]
    result = follower.outputs[0]
    follower.outputs.clear()
    follower.inputs.clear()
    node.outputs[0] = result
    origin[node.name] = (*origin[node.name], follower.name)
    return True
