"""A graph's structure, and the values of its constants apart from it.

Copies share what they have in common: changed constants go on top of the others, which nobody copies, and the whole
graph is put together only where a session is opened or a file is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import external_data_helper

from onnxmpq.model.shell import LARGEST_KEPT

IN_THE_STORE = "in the weight store"  # where a structure says that a large constant is: no file has that name


class WeightStore(Mapping[str, onnx.TensorProto]):
    """Constants (initializers) of a graph by name, in graph order. Each is read when it is looked up.

    structure: the graph, in which constants of more than LARGEST_KEPT elements have a name, a type and a shape, but no
    values; what would read them there fails. Small constants are in it and nowhere else. Never modified.
    """

    def __init__(self, structure: onnx.ModelProto, large: Mapping[str, onnx.TensorProto], folder: Path | None) -> None:
        """large: with their values, or where these are in files of `folder` (ONNX external data)."""
        self.structure, self._large, self._folder = structure, large, folder
        self._places = {t.name: number for number, t in enumerate(structure.graph.initializer)}

    @classmethod
    def of(cls, proto: onnx.ModelProto, folder: Path | None = None) -> WeightStore:
        """The constants of a graph, copied out of it. folder: of the model's file, for those with external data."""
        structure, large = without_initializers(proto), {}
        for tensor in proto.graph.initializer:
            if math.prod(tensor.dims) > LARGEST_KEPT:
                large[tensor.name] = _copied(tensor)
            elif external_data_helper.uses_external_data(tensor):
                tensor = _read(tensor, folder)
            structure.graph.initializer.append(_described(tensor) if tensor.name in large else tensor)
        return cls(structure, large, folder)

    @property
    def large(self) -> Set[str]:
        """Names of the constants that the structure only describes."""
        return self._large.keys()

    def __getitem__(self, name: str) -> onnx.TensorProto:
        tensor: onnx.TensorProto | None = self._large.get(name)
        if tensor is None:
            tensor = self.structure.graph.initializer[self._places[name]]
        return _read(tensor, self._folder) if external_data_helper.uses_external_data(tensor) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def array(self, name: str) -> NDArray[np.generic]:
        """The values of a constant, read-only."""
        found: NDArray[np.generic] = onnx.numpy_helper.to_array(self[name])
        return found

    def with_tensors(self, changes: Mapping[str, NDArray[np.generic]]) -> WeightStore:
        """The same graph with other values of these constants, which keep their names, types and shapes.

        Raises KeyError for a constant that the graph does not have, ValueError for another type or shape.
        """
        structure, large = self.structure, dict(self._large)
        if any(name not in large for name in changes):
            structure = onnx.ModelProto()
            structure.CopyFrom(self.structure)
        for name, values in changes.items():
            place = structure.graph.initializer[self._places[name]]
            tensor = onnx.numpy_helper.from_array(np.asarray(values, order="C"), name)
            if (tensor.data_type, list(tensor.dims)) != (place.data_type, list(place.dims)):
                raise ValueError(f"{name}: {values.dtype}{list(values.shape)} cannot take the place of this constant")
            if name in large:
                large[name] = tensor
            else:
                place.CopyFrom(tensor)
        return WeightStore(structure, large, self._folder)

    def assembled(self) -> onnx.ModelProto:
        """The whole graph as a new proto, with copies of all constants."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.structure)
        for tensor in proto.graph.initializer:
            if tensor.name in self._large:
                tensor.CopyFrom(self[tensor.name])
        return proto


def without_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without its constants, which are not copied on the way."""
    copy = onnx.ModelProto()
    _copy_fields(proto, copy, "graph")
    if proto.HasField("graph"):
        copy.graph.SetInParent()
        _copy_fields(proto.graph, copy.graph, "initializer")
    return copy


def serialized_bytes(proto: onnx.ModelProto) -> int:
    """Length of the serialized model, added up of its parts: `ByteSize` serializes all of what it is asked for."""
    rest = without_initializers(proto)
    if not rest.HasField("graph"):
        return int(rest.ByteSize())
    graph = rest.graph.ByteSize()
    around = rest.ByteSize() - _field_bytes(graph)
    constants: int = sum(_field_bytes(t.ByteSize()) for t in proto.graph.initializer)
    return int(around + _field_bytes(graph + constants))


def _field_bytes(content: int) -> int:
    """Of a message of this length as a field with a number below 16: a key, the length (7 bits a byte), the content."""
    return 1 + max(1, -(-content.bit_length() // 7)) + content


def _copy_fields(source: Any, copy: Any, left_out: str) -> None:
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if isinstance(value, Message):
            getattr(copy, field.name).CopyFrom(value)
        elif isinstance(value, int | float | str | bytes):
            setattr(copy, field.name, value)
        else:
            getattr(copy, field.name).extend(value)


def _copied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """By itself: a tensor that is part of a graph keeps all of the graph in memory."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _described(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor without values."""
    place = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    place.data_location = onnx.TensorProto.EXTERNAL
    place.external_data.add(key="location", value=IN_THE_STORE)
    return place


def _read(tensor: onnx.TensorProto, folder: Path | None) -> onnx.TensorProto:
    """A tensor with its values out of its file. Raises OSError or ValueError where it cannot be read."""
    read = _copied(tensor)
    external_data_helper.load_external_data_for_tensor(read, str(folder or ""))
    read.ClearField("data_location")
    del read.external_data[:]
    return read
