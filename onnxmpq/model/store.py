"""A graph's structure, and the values of its constants apart from it.

Copies share what they have in common: changed constants go on top of the others, which nobody copies, and the whole
graph is put together only where a session is opened or a file is written.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from onnxmpq.errors import ModelError
from onnxmpq.model.files import LENGTH, LOCATION, MODIFIED, OFFSET, STORED_TYPE, external, place_of, set_place
from onnxmpq.model.shell import LARGEST_KEPT
from onnxmpq.model.spill import Spill, content_of, is_reference, referred

IN_THE_STORE = "in the weight store"  # where a structure says that a large constant is: no file has that name


class WeightStore(Mapping[str, onnx.TensorProto]):
    """Constants (initializers) of a graph by name, in graph order. Each is read when it is looked up.

    structure: the graph, in which constants of more than LARGEST_KEPT elements have a name, a type and a shape, but no
    values; what would read them there fails. Small constants are in it and nowhere else. Never modified.
    """

    def __init__(
        self,
        structure: onnx.ModelProto,
        large: Mapping[str, onnx.TensorProto],
        folder: Path | None,
        spill: Spill | None = None,
    ) -> None:
        """large: with their values, or where these are in files of `folder` (ONNX external data). spill: of a model
        that is never whole in memory; all its large constants are in files."""
        self.structure, self._large, self._folder, self.spill = structure, large, folder, spill
        self._places = {t.name: number for number, t in enumerate(structure.graph.initializer)}

    @classmethod
    def of(cls, proto: onnx.ModelProto, folder: Path | None = None, spill: Spill | None = None) -> WeightStore:
        """The constants of a graph, copied out of it. folder: of the model's file, for those with external data.
        spill: see `__init__`."""
        structure, large = without_initializers(proto), {}
        for tensor in proto.graph.initializer:
            if math.prod(tensor.dims) > LARGEST_KEPT:
                large[tensor.name] = _held(_copied(tensor), spill)
            elif external(tensor):
                tensor = with_values(tensor, folder)
            structure.graph.initializer.append(_described(tensor) if tensor.name in large else tensor)
        return cls(structure, large, folder, spill)

    def follow(self, made: onnx.ModelProto) -> WeightStore:
        """The store of a graph that was made from this one's structure.

        Constants that it only describes keep their values; where it describes them as of another type, they are
        converted when they are read. Those that came with values are copied out of it.
        """
        structure, large = without_initializers(made), dict[str, onnx.TensorProto]()
        for tensor in made.graph.initializer:
            if described(tensor):
                large[tensor.name] = self._as_type(self._large[tensor.name], tensor.data_type)
            elif math.prod(tensor.dims) > LARGEST_KEPT:
                large[tensor.name] = _held(_copied(tensor), self.spill)
            structure.graph.initializer.append(_described(tensor) if tensor.name in large else tensor)
        return WeightStore(structure, large, self._folder, self.spill)

    def _as_type(self, tensor: onnx.TensorProto, data_type: int) -> onnx.TensorProto:
        converted = _as_type(tensor, data_type)
        if self.spill is None or STORED_TYPE not in place_of(converted):
            return converted
        return self.spill.put(with_values(converted, self._folder))

    def place(self, name: str) -> int:
        """Number of a constant among the initializers of the structure."""
        return self._places[name]

    @property
    def large(self) -> Set[str]:
        """Names of the constants that the structure only describes."""
        return self._large.keys()

    def __getitem__(self, name: str) -> onnx.TensorProto:
        tensor: onnx.TensorProto | None = self._large.get(name)
        if tensor is None:
            tensor = self.structure.graph.initializer[self._places[name]]
        return with_values(tensor, self._folder)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # `Mapping` would read its values

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def array(self, name: str) -> NDArray[np.generic]:
        """The values of a constant, read-only; of a model that is never whole in memory, mapped from their file."""
        tensor = self._large.get(name)
        if tensor is not None and self.spill is not None and (mapped := _mapped(tensor, self._folder)) is not None:
            return mapped
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
                large[name] = _held(tensor, self.spill)
            else:
                place.CopyFrom(tensor)
        return WeightStore(structure, large, self._folder, self.spill)

    def resident(self) -> WeightStore:
        """The same constants without any file: for another machine. Those that are in files are read now."""
        if not any(external(t) for t in self._large.values()):
            return self
        return WeightStore(self.structure, {n: with_values(t, self._folder) for n, t in self._large.items()}, None)

    def lengths(self) -> Iterator[int]:
        """Bytes of each constant in a file, in graph order. No values are read."""
        for tensor in self.structure.graph.initializer:
            yield tensor_bytes(self._large.get(tensor.name, tensor))

    def handed(self, name: str) -> onnx.TensorProto:
        """A constant as a session or a writer gets it: with its values, or of a model that is never whole in memory a
        reference. Raises ModelError as `with_values` does."""
        tensor = self._large.get(name)
        if tensor is None or self.spill is None:
            return self[name]
        if is_reference(tensor):
            return tensor
        assert self._folder is not None
        file = self._folder / place_of(tensor)[LOCATION]
        _require_unchanged(tensor, file)
        return referred(tensor, file)

    def content(self, name: str) -> str:
        """SHA-256 of a constant's values where a model is never whole in memory, else empty; each is read once."""
        return "" if self.spill is None or name not in self._large else content_of(self.handed(name))

    @cached_property
    def all_handed(self) -> Mapping[str, onnx.TensorProto]:
        """`handed` by name."""
        return _Handed(self)

    def kept(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array that is as large as a constant may be: mapped from a file where the model is never whole in memory,
        else the same array. Raises OutputError."""
        return values if self.spill is None or values.size <= LARGEST_KEPT else self.spill.array(values)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A block whose models and graphs nobody uses afterwards: what they have in temporary files is removed."""
        with self.spill.passing() if self.spill is not None else nullcontext():
            yield

    def assembled(self) -> onnx.ModelProto:
        """The whole graph as a new proto, with copies of all constants as far as they are handed out with values."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.structure)
        self.fill(proto)
        return proto

    def fill(self, made: onnx.ModelProto) -> None:
        """Give a graph that was made from the structure the values of what it only describes."""
        for tensor in made.graph.initializer:
            if described(tensor):
                tensor.CopyFrom(self.handed(tensor.name))

    def spilled(self, made: onnx.ModelProto) -> None:
        """Where the model is never whole in memory, turn large constants of a graph that was made into references."""
        for tensor in made.graph.initializer if self.spill is not None else ():
            if math.prod(tensor.dims) > LARGEST_KEPT and not external(tensor):
                tensor.CopyFrom(_held(tensor, self.spill))


class _Handed(Mapping[str, onnx.TensorProto]):
    def __init__(self, store: WeightStore) -> None:
        self._store = store

    def __getitem__(self, name: str) -> onnx.TensorProto:
        return self._store.handed(name)

    def __contains__(self, name: object) -> bool:
        return name in self._store

    def __iter__(self) -> Iterator[str]:
        return iter(self._store)

    def __len__(self) -> int:
        return len(self._store)


def _held(tensor: onnx.TensorProto, spill: Spill | None) -> onnx.TensorProto:
    """The constant, in a file where it has to be."""
    return tensor if spill is None or external(tensor) else spill.put(tensor)


def without_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without its constants, which are not copied on the way."""
    copy = onnx.ModelProto()
    _copy_fields(proto, copy, "graph")
    if proto.HasField("graph"):
        copy.graph.SetInParent()
        _copy_fields(proto.graph, copy.graph, "initializer")
    return copy


def serialized_bytes(graph: onnx.ModelProto | WeightStore) -> int:
    """Length of the serialized model, added up of its parts: `ByteSize` serializes all of what it is asked for."""
    structure = graph.structure if isinstance(graph, WeightStore) else graph
    rest = without_initializers(structure)
    if not rest.HasField("graph"):
        return int(rest.ByteSize())
    lengths = graph.lengths() if isinstance(graph, WeightStore) else (tensor_bytes(t) for t in graph.graph.initializer)
    inner = rest.graph.ByteSize()
    around = rest.ByteSize() - _field_bytes(inner)
    constants: int = sum(map(_field_bytes, lengths))
    return int(around + _field_bytes(inner + constants))


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


def described(tensor: onnx.TensorProto) -> bool:
    """True for a constant of a structure that has no values there."""
    return external(tensor) and place_of(tensor).get(LOCATION) == IN_THE_STORE


def _described(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor without values."""
    place = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    set_place(place, location=IN_THE_STORE)
    return place


def _as_type(tensor: onnx.TensorProto, data_type: int) -> onnx.TensorProto:
    """The constant with elements of another type, converted at once or, where its values are in a file, when read."""
    if tensor.data_type == data_type:
        return tensor
    if not external(tensor):
        return _converted(tensor, data_type)
    place = _copied(tensor)
    place.data_type = data_type
    set_place(place, stored_type=place_of(tensor).get(STORED_TYPE, tensor.data_type))
    return place


def _converted(tensor: onnx.TensorProto, data_type: int) -> onnx.TensorProto:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    return onnx.numpy_helper.from_array(np.asarray(onnx.numpy_helper.to_array(tensor), dtype), tensor.name)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor as a message with its values, which are not read."""
    if not external(tensor) or described(tensor):
        return int(tensor.ByteSize())
    bare, place = _copied(tensor), place_of(tensor)
    _forget_place(bare)
    if STORED_TYPE not in place:
        return int(bare.ByteSize()) + _field_bytes(int(place[LENGTH]))
    bare = onnx.TensorProto(name=bare.name, data_type=bare.data_type, dims=bare.dims)
    size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(bare.ByteSize()) + _field_bytes(size)


def with_values(tensor: onnx.TensorProto, folder: Path | None) -> onnx.TensorProto:
    """The tensor itself, or where its values are in a file of the folder a copy that has them.

    Raises ModelError where the file is gone or was changed since the model was read, ValueError without a folder.
    """
    if not external(tensor):
        return tensor
    place = place_of(tensor)
    if (folder is None and not is_reference(tensor)) or place.get(LOCATION) == IN_THE_STORE:
        raise ValueError(f"tensor {tensor.name!r} has its values elsewhere ({place.get(LOCATION)})")
    file, read = (folder or Path()) / place[LOCATION], _copied(tensor)
    _forget_place(read)
    try:
        with file.open("rb") as content:
            _require_unchanged(tensor, file)
            content.seek(int(place.get(OFFSET, 0)))
            read.raw_data = content.read(int(place[LENGTH]) if LENGTH in place else -1)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read any more ({error.strerror}); run again") from None
    if STORED_TYPE not in place:
        return read
    read.data_type = int(place[STORED_TYPE])
    return _converted(read, tensor.data_type)


def _require_unchanged(tensor: onnx.TensorProto, file: Path) -> None:
    """Raises ModelError where the file is gone or was changed since the model was read."""
    modified = place_of(tensor).get(MODIFIED)
    try:
        if modified is not None and modified != str(os.stat(file).st_mtime_ns):
            raise ModelError(f"{file}: was changed while the model was in use; run again")
    except OSError as error:
        raise ModelError(f"{file}: cannot be read any more ({error.strerror}); run again") from None


def array_of(tensor: onnx.TensorProto) -> NDArray[np.generic]:
    """The values of a tensor that has them, or of a reference, from whose file they are mapped."""
    if is_reference(tensor) and (mapped := _mapped(tensor, None)) is not None:
        return mapped
    found: NDArray[np.generic] = onnx.numpy_helper.to_array(with_values(tensor, None))
    return found


def _mapped(tensor: onnx.TensorProto, folder: Path | None) -> NDArray[np.generic] | None:
    """The values of a constant in a file; None where they are stored in another way than NumPy holds them.

    Raises ModelError as `with_values` does.
    """
    place, dtype = place_of(tensor), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    whole_bytes = int(place.get(LENGTH, -1)) == math.prod(tensor.dims) * dtype.itemsize
    if STORED_TYPE in place or dtype.isbuiltin != 1 or sys.byteorder != "little" or not whole_bytes:
        return None
    file = (folder or Path()) / place[LOCATION]
    _require_unchanged(tensor, file)
    try:
        found = np.memmap(file, dtype, "r", int(place.get(OFFSET, 0)), tuple(tensor.dims))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read any more ({error.strerror}); run again") from None
    return found.view(np.ndarray)


def _forget_place(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("data_location")
    del tensor.external_data[:]
