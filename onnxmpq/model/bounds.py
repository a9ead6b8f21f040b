"""Bounds of what a file may claim: checked before native code, NumPy or the disk is asked for what it says.

onnx's tools and onnxruntime take a file at its word, up to the end of the memory or of the stack.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from onnxmpq.errors import ModelError
from onnxmpq.model.files import LENGTH, LOCATION, MODIFIED, OFFSET, external, place_of, set_place
from onnxmpq.model.shell import LARGEST_BYTES
from onnxmpq.model.tidy import bodies, captured, subgraphs

MOST_UNFOLDED = 10**5  # nodes of a model whose local functions are inlined
_BITS = {
    **dict.fromkeys(("UINT8", "INT8", "BOOL"), 8),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "UINT16", "INT16"), 16),
    **dict.fromkeys(("FLOAT", "UINT32", "INT32"), 32),
    **dict.fromkeys(("DOUBLE", "UINT64", "INT64", "COMPLEX64"), 64),
    **dict.fromkeys(("UINT4", "INT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("UINT2", "INT2"), 2),
    "COMPLEX128": 128,
}
_FIELDS = {  # where values are that are not raw; int32_data has all others, several to an entry below 8 bits
    "FLOAT": ("float_data", 1),
    "COMPLEX64": ("float_data", 2),
    "DOUBLE": ("double_data", 1),
    "COMPLEX128": ("double_data", 2),
    "INT64": ("int64_data", 1),
    "UINT64": ("uint64_data", 1),
    "UINT32": ("uint64_data", 1),
    "STRING": ("string_data", 1),
}


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: constants and attributes of its graphs, their bodies and its functions."""
    for graph in (g for top in (proto.graph, *proto.functions) for g in subgraphs(top)):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def require_plausible(proto: onnx.ModelProto, where: str, *, in_files: bool) -> None:
    """Raises ModelError for a tensor whose values are not as many as its shape says, for sizes that no file has, for
    functions that call themselves or unfold to a model that nothing holds. in_files: `external_files` looked at it."""
    for tensor in tensors(proto):
        _require_whole(tensor, where, in_files=in_files)
    _require_finite_functions(proto, where)


def require_no_cycle(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError for a graph that, sorted, still reads a result before it is made."""
    for graph in subgraphs(proto.graph):
        made = {t: number for number, node in enumerate(graph.node) for t in node.output if t}
        for number, node in enumerate(graph.node):
            late = next((t for t in (*node.input, *captured(node)) if made.get(t, -1) >= number), None)
            if late is not None:
                raise ModelError(
                    f"{where}: the graph has a cycle at node {node.name!r} ({node.op_type}), which reads {late!r}; "
                    "export the model again"
                )


def _require_whole(tensor: onnx.TensorProto, where: object, *, in_files: bool) -> None:
    if problem := _problem(tensor, in_files=in_files):
        raise ModelError(f"{where}: tensor {tensor.name!r} {problem}; export the model again")


def _problem(tensor: onnx.TensorProto, *, in_files: bool) -> str:
    """The first thing that is wrong with a tensor, in words; empty for nothing."""
    if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
        return f"has no type that is known ({tensor.data_type})"
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    count = math.prod(tensor.dims)
    if any(d < 0 for d in tensor.dims):
        return f"has a negative dimension {list(tensor.dims)}"
    if not external(tensor) and count * _BITS.get(kind, 8) > 8 * LARGEST_BYTES:
        return f"claims {count} values, more than a model file holds"
    if external(tensor) and not in_files:
        return "has its values in another file; give the path of the model"
    if tensor.HasField("segment"):
        return "is a segment of a tensor, which no runtime puts together"
    if kind not in _BITS and kind != "STRING":
        return ""
    if external(tensor):
        given, wanted = int(place_of(tensor)[LENGTH]), -(-count * _BITS.get(kind, 0) // 8)
    elif tensor.raw_data or kind == "STRING":
        given = len(tensor.string_data) if kind == "STRING" else len(tensor.raw_data)
        wanted = count if kind == "STRING" else -(-count * _BITS[kind] // 8)
    else:
        field, each = _FIELDS.get(kind, ("int32_data", 1))
        given = len(getattr(tensor, field))
        wanted = -(-count * min(_BITS[kind], 8) // 8) if field == "int32_data" else count * each
    what = "bytes" if external(tensor) or (tensor.raw_data and kind != "STRING") else "values"
    return "" if given == wanted else f"has {given} {what}, its shape {list(tensor.dims)} asks for {wanted}"


def _require_finite_functions(proto: onnx.ModelProto, where: str) -> None:
    functions = {(f.domain, f.name): f for f in proto.functions}
    sizes: dict[tuple[str, str], int] = {}
    running: set[tuple[str, str]] = set()

    def size(nodes: Iterable[onnx.NodeProto]) -> int:
        found = 0
        for node in nodes:
            called = functions.get((node.domain, node.op_type))
            found += 1 if called is None else of_function((node.domain, node.op_type))
            found += sum(size(body.node) for body in bodies(node))
        return found

    def of_function(key: tuple[str, str]) -> int:
        if key in running:
            raise ModelError(f"{where}: local function {key[1]!r} calls itself; export the model again")
        if key not in sizes:
            running.add(key)
            sizes[key] = size(functions[key].node)
            running.discard(key)
        return sizes[key]

    try:
        total = size(proto.graph.node) if functions else 0
    except RecursionError:
        raise ModelError(f"{where}: local functions call each other too deeply; export the model again") from None
    if total > MOST_UNFOLDED:
        raise ModelError(
            f"{where}: its local functions unfold to {total} nodes, more than {MOST_UNFOLDED}; export the model again"
        )


# ---- external data


def external_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """Files beside the model that hold values of its tensors, sorted. Completes the places of these tensors.

    Raises ModelError for one that is missing, a link, or outside the model's folder, and for a tensor whose part of it
    does not have the bytes of its shape: nothing is read that is not part of a model.
    """
    files = {path.name: path}
    sizes: dict[str, os.stat_result] = {}
    total = 0
    for tensor in filter(external, tensors(proto)):
        entries = place_of(tensor)
        location = entries.get(LOCATION, "")
        if location not in sizes:
            files[location] = files.get(location) or _beside(path, location)
            sizes[location] = files[location].stat()
        size = sizes[location]
        length = _length(tensor, entries, size.st_size, path)
        set_place(tensor, **{LENGTH: length, MODIFIED: size.st_mtime_ns})
        _require_whole(tensor, path, in_files=True)
        total += length
    if total > max(LARGEST_BYTES, 2 * sum(s.st_size for s in sizes.values())):
        raise ModelError(f"{path}: its tensors read the same external data again and again, {total / 1e9:.0f} GB of it")
    return [files[location] for location in sorted(sizes) if location != path.name]


def _beside(path: Path, location: str) -> Path:
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if not location or "\0" in location or ".." in parts or absolute:
        raise ModelError(
            f"{path}: external data {location!r} is not below the model's folder; it is not read, put it there"
        )
    file = path.parent / location
    below = [file, *list(file.parents)[: len(PurePosixPath(location).parts) - 1]]
    try:
        if any(p.is_symlink() for p in below):
            raise ModelError(f"{path}: external data file {location!r} is a link, which is not followed; copy the file")
        found = os.path.isfile(file)
    except OSError:  # a name that is too long
        found = False
    if not found:
        raise ModelError(f"{path}: external data file {location!r} is missing; put it beside the model")
    return file


def _length(tensor: onnx.TensorProto, entries: dict[str, str], size: int, path: Path) -> int:
    """Bytes of a tensor in its file, which has `size`."""
    where = f"{path}: external data of tensor {tensor.name!r}"
    try:
        offset = int(entries.get(OFFSET, 0))
        length = int(entries[LENGTH]) if LENGTH in entries else size - offset
    except ValueError:
        raise ModelError(f"{where} has an offset or a length that is no number; export the model again") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{where} is bytes {offset} to {offset + length} of {entries[LOCATION]!r}, which has {size}; "
            "copy its files again"
        )
    return length
