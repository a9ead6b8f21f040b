"""Constants of a model that is too large for memory: in files of a temporary folder, each named by its content.

A *reference* is a constant whose values are at an absolute place on the disk, spelled as ONNX external data. A graph
with references is small however large its model is: it goes from process to process, and sessions map its files
(`runtimes.open_session`). No file that is handed out has references.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.errors import OutputError
from onnxmpq.model.files import LENGTH, LOCATION, OFFSET, external, place_of, set_place
from onnxmpq.model.shell import LARGEST_BYTES

NEVER_WHOLE = LARGEST_BYTES
"""Bytes of a model, external data included, from which on its weights stay in files."""
_SUFFIX, _DIGITS = ".bin", 64
_CHUNK = 2**24  # bytes
_KEPT: list[Spill] = []


class Spill:
    """A temporary folder, gone when nothing uses it any more. A copy in another process uses the same files.

    hashes: of what was computed from constants, for who computed it.
    """

    def __init__(self) -> None:
        """Raises OutputError where no folder can be made."""
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="onnxmpq-")).resolve()
        except OSError as error:
            raise OutputError(
                f"no temporary folder can be made for a model of this size ({error.strerror}); set TMPDIR to a folder "
                "that can be written"
            ) from None
        self.hashes: dict[tuple[object, ...], str] = {}
        self._passing: list[Path] | None = None
        weakref.finalize(self, _remove, self.folder, os.getpid())

    @classmethod
    def of(cls, size: int) -> Spill | None:
        """For a model of this size in bytes, external data included; None for one that memory holds."""
        return cls() if size >= NEVER_WHOLE else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (self.folder,)

    def put(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """A reference to the values of a tensor, which are written unless a file has them. Raises OutputError."""
        content = tensor.raw_data  # a copy
        if not content:
            content = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data
        return _reference(tensor, self._kept(content), 0, len(content))

    def array(self, values: NDArray[Any]) -> NDArray[Any]:
        """The array, mapped from a file that takes room as long as the array is used. Raises OutputError."""
        if not values.size:
            return values
        file = self._alone(values)
        mapped = np.memmap(file, values.dtype, "r", shape=values.shape)
        with suppress(OSError):  # it goes with the folder then
            file.unlink()
        return mapped

    def content(self, content: bytes) -> Path:
        """A file of these bytes. Raises OutputError."""
        return self._kept(content)

    def temporary(self, name: str, values: NDArray[np.generic]) -> onnx.TensorProto:
        """A reference to values in a file of their own, which whoever asked removes. Raises OutputError."""
        element = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        described = onnx.TensorProto(name=name, data_type=element, dims=values.shape)
        return _reference(described, self._alone(values), 0, values.nbytes)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A block whose new references nobody uses afterwards: their files are removed."""
        before, self._passing = self._passing, []
        try:
            yield
        finally:
            gone, self._passing = self._passing, before
            for file in gone:
                file.unlink(missing_ok=True)

    def keep_until_exit(self) -> None:
        """For references that are handed to who knows nothing of this folder."""
        _KEPT.append(self)

    def _alone(self, values: NDArray[Any]) -> Path:
        """A file of these values only."""
        file = self._existing() / f"{uuid.uuid4().hex}.alone"
        self._write(file, np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        return file

    def _kept(self, content: bytes | memoryview) -> Path:
        file = self._existing() / f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
        if not os.path.exists(file):
            self._write(file, content)
            if self._passing is not None:
                self._passing.append(file)
        return file

    def _existing(self) -> Path:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return self.folder

    def _write(self, file: Path, content: bytes | memoryview) -> None:
        partial = file.with_suffix(f".{os.getpid()}.writing")
        try:
            partial.write_bytes(content)
            os.replace(partial, file)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(
                f"temporary folder {self.folder.parent}: {len(content) / 1e6:.0f} MB of weights cannot be written "
                f"there ({error.strerror}); set TMPDIR to a folder with more room"
            ) from None


def is_reference(tensor: onnx.TensorProto) -> bool:
    """True for a constant whose values are at an absolute place."""
    return external(tensor) and os.path.isabs(place_of(tensor).get(LOCATION, ""))


def content_of(tensor: onnx.TensorProto) -> str:
    """SHA-256 of a reference's values, hexadecimal; empty for other tensors. Raises OSError."""
    if not is_reference(tensor):
        return ""
    place = place_of(tensor)
    file = Path(place[LOCATION])
    if file.suffix == _SUFFIX and len(file.stem) == _DIGITS:
        return file.stem
    return _hashed(file, file.stat().st_mtime_ns, int(place[OFFSET]), int(place[LENGTH]))


@functools.cache
def _hashed(file: Path, modified_ns: int, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    for part in read_parts(file, offset, length):
        digest.update(part)
    return digest.hexdigest()


def read_parts(file: Path, offset: int, length: int) -> Iterator[bytes]:
    """A stretch of a file, piece by piece. Raises OSError."""
    with file.open("rb") as content:
        content.seek(offset)
        while length > 0 and (part := content.read(min(_CHUNK, length))):
            length -= len(part)
            yield part


def referred(tensor: onnx.TensorProto, file: Path) -> onnx.TensorProto:
    """A constant with values in a file, as a reference."""
    place = place_of(tensor)
    offset = int(place.get(OFFSET, 0))
    return _reference(tensor, file.resolve(), offset, int(place[LENGTH]))


def _reference(tensor: onnx.TensorProto, file: Path, offset: int, length: int) -> onnx.TensorProto:
    made = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    set_place(made, **{LOCATION: file, OFFSET: offset, LENGTH: length})
    return made


def _elsewhere(folder: Path) -> Spill:
    found = Spill.__new__(Spill)
    found.folder, found.hashes, found._passing = folder, {}, None
    return found


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
