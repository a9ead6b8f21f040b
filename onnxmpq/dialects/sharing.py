"""Equal constants once in the file: weights that several layers have, also where one of them has it transposed.

Sessions unfold a Transpose of a constant when they are created, so that this changes the file alone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model import SHARED_BYTES, WeightStore, array_of, content_of, described, subgraphs, with_values

_BLOCKS = "block_size"
_TRANSPOSED = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8})
"""Types of matrices that may be written as the transpose of another one."""


def share_constants(
    proto: onnx.ModelProto,
    new: Callable[[str], str],
    store: WeightStore,
    private: Collection[str] = (),
    *,
    transposed: bool = True,
) -> None:
    """Keep the first of equal initializers of `SHARED_BYTES` or more; changes the proto.

    transposed: a matrix may be written as a Transpose of another one. new: makes a name for a node.
    store: values of constants that the proto only describes.
    private: initializers that have one reader for a reason of the dialect. They stay as they are, and so do inputs and
    outputs of the graph, and blocked weights: onnxruntime (1.32) fuses a kernel that reads them only where no other
    node does.
    """
    graph = proto.graph
    fixed = {*private, *(v.name for v in (*graph.input, *graph.output))}
    blocked = (n for n in graph.node if n.op_type == "DequantizeLinear" and any(a.name == _BLOCKS for a in n.attribute))
    fixed.update(t for n in blocked for t in n.input)
    alike: dict[tuple[int, tuple[int, ...]], list[TensorProto]] = defaultdict(list)
    for tensor in graph.initializer:
        if tensor.name not in fixed and _bytes(tensor) >= SHARED_BYTES:
            alike[tensor.data_type, tuple(sorted(tensor.dims))].append(tensor)
    renamed: dict[str, str] = {}
    transposes: list[onnx.NodeProto] = []
    for group in alike.values():
        _share(group, store, renamed, transposes, new if transposed else None)
    if not renamed and not transposes:
        return
    gone = {*renamed, *(n.output[0] for n in transposes)}
    kept = [t for t in graph.initializer if t.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for inner in subgraphs(graph):
        for node in inner.node:
            node.input[:] = [renamed.get(t, t) for t in node.input]
    nodes = [*transposes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _share(
    group: list[TensorProto],
    store: WeightStore,
    renamed: dict[str, str],
    transposes: list[onnx.NodeProto],
    new: Callable[[str], str] | None,
) -> None:
    """Sort out a group of initializers of one type and about one shape. new: None where nothing is to be transposed."""
    if len(group) < 2:
        return
    kept: dict[tuple[tuple[int, ...], bytes], str] = {}
    for place in group:
        tensor = store.handed(place.name) if described(place) else place
        shape, content = tuple(tensor.dims), _content(tensor)
        if (same := kept.get((shape, content))) is not None:
            renamed[tensor.name] = same
            continue
        if new is not None and len(shape) == 2 and tensor.data_type in _TRANSPOSED:
            turned = np.ascontiguousarray(array_of(tensor).T)
            if (other := kept.get((turned.shape, _digest(turned.tobytes())))) is not None:
                name = new(f"{tensor.name}/transposed")
                transposes.append(helper.make_node("Transpose", [other], [tensor.name], name, perm=[1, 0]))
                continue
        kept[shape, content] = tensor.name


def _content(tensor: TensorProto) -> bytes:
    """Digest of a tensor's bytes."""
    if known := content_of(tensor):
        return bytes.fromhex(known)
    read = with_values(tensor, None)
    return _digest(read.raw_data or numpy_helper.to_array(read).tobytes())


def _bytes(tensor: TensorProto) -> int:
    if tensor.raw_data:
        return len(tensor.raw_data)
    return int(np.prod(tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
