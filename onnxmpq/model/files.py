"""A model file without the values of its large constants: they stay in the file until somebody reads them.

Protobuf's own parser takes a file whole. Here the bytes of a model are walked through field by field (protobuf
encoding, "Message Structure"; field numbers from onnx.proto), and what is too long is replaced by its place in the
file, spelled as ONNX external data whose location is the model file itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from onnxmpq.model.shell import LARGEST_KEPT

LONGEST_READ = 4 * LARGEST_KEPT  # bytes of a constant that are read with the structure
LOCATION, OFFSET, LENGTH, MODIFIED, STORED_TYPE = "location", "offset", "length", "modified", "stored_type"
"""Keys of external data. MODIFIED (ns) and STORED_TYPE (the element type in the file, where the constant is of another)
are not in ONNX, and in no file that is written."""

_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # fields of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def read_structure(path: Path) -> onnx.ModelProto:
    """The model in a file; constants of the graph with more than `LONGEST_READ` bytes have their place instead.

    Raises OSError, and DecodeError for a file that is not a model.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                described = _message(content, 0, len(content), {_GRAPH: partial(_graph, name=path.name)})
        except (ValueError, IndexError):  # an empty file, or one that protobuf's parser has to judge
            file.seek(0)
            described = file.read()
    proto: onnx.ModelProto = onnx.ModelProto.FromString(described)
    return proto


def external(tensor: onnx.TensorProto) -> bool:
    """True where the values are in a file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def place_of(tensor: onnx.TensorProto) -> dict[str, str]:
    """Entries of external data by key."""
    return {entry.key: entry.value for entry in tensor.external_data}


def set_place(tensor: onnx.TensorProto, **entries: object) -> None:
    """Make the tensor one whose values are elsewhere; other entries stay."""
    held = {**place_of(tensor), **{key: str(value) for key, value in entries.items()}}
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in held.items():
        tensor.external_data.add(key=key, value=value)


# ---- protobuf's encoding


@dataclass(frozen=True)
class _Field:
    """A field of a message: from `start` (its key) to `end`; its content begins at `content`."""

    number: int
    wire: int
    start: int
    content: int
    end: int


_Rewrite = Callable[[mmap.mmap, int, int], bytes]


def _message(data: mmap.mmap, start: int, end: int, rewrites: dict[int, _Rewrite]) -> bytes:
    """A message in which fields of these numbers, which are messages, are what `rewrites` makes of them."""
    parts, copied = [], start
    for field in _fields(data, start, end):
        if field.number in rewrites and field.wire == _BYTES:
            made = rewrites[field.number](data, field.content, field.end)
            parts += [data[copied : field.start], _written(field.number << 3 | _BYTES), _written(len(made)), made]
            copied = field.end
    return b"".join([*parts, data[copied:end]])


def _graph(data: mmap.mmap, start: int, end: int, *, name: str) -> bytes:
    return _message(data, start, end, {_INITIALIZER: partial(_constant, name=name)})


def _constant(data: mmap.mmap, start: int, end: int, *, name: str) -> bytes:
    if end - start <= LONGEST_READ:
        return data[start:end]
    fields = list(_fields(data, start, end))
    raw = [f for f in fields if f.number == _RAW_DATA and f.wire == _BYTES]
    elsewhere = any(f.number in (_EXTERNAL_DATA, _DATA_LOCATION) for f in fields)
    if elsewhere or len(raw) != 1 or raw[0].end - raw[0].content <= LONGEST_READ:
        return data[start:end]
    [values] = raw
    place = onnx.TensorProto()
    set_place(place, location=name, offset=values.content, length=values.end - values.content)
    return b"".join((data[start : values.start], data[values.end : end], place.SerializeToString()))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Raises ValueError or IndexError for what is no message."""
    at = start
    while at < end:
        key, content = _varint(data, at)
        if key & 7 == _VARINT:
            after = _varint(data, content)[1]
        elif key & 7 == _BYTES:
            length, content = _varint(data, content)
            after = content + length
        elif key & 7 in (_FIXED32, _FIXED64):
            after = content + (4 if key & 7 == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {key & 7}")
        if after > end:
            raise ValueError("a field that is longer than its message")
        yield _Field(key >> 3, key & 7, at, content, after)
        at = after


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _written(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
