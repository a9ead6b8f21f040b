"""Reader of `.npz` archives keyed by input name, and of single `.npy` files; only the chosen rows are kept."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.columns import Column, MemoryColumn, RowColumn, assemble
from onnxmpq.feeds.memory import room_for
from onnxmpq.feeds.types import Array, Feeds, InputSpec
from onnxmpq.files import read_array_header, require_plausible

# What zipfile, zlib and NumPy's parser of headers raise on damaged files.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


LONGEST_NUMBER = 10  # digits of a sample's number; Python refuses to read thousands of them


def read_npz(path: Path, specs: Sequence[InputSpec], limit: int | None) -> Feeds:
    """Feeds from an `.npz`: arrays named after the inputs, first axis = samples, or `<input>_<number>`, one for each
    sample."""
    columns = numbered(npz_columns(path), specs, path)
    return assemble(columns, specs, source=str(path), limit=limit)


def numbered(columns: Mapping[str, Column], specs: Sequence[InputSpec], path: Path) -> dict[str, Column | RowColumn]:
    """Arrays `<input>_<number>` as the rows of that input, in the order of their numbers; others as they are.

    Raises CalibrationError where inputs have different numbers.
    """
    found: dict[str, Column | RowColumn] = dict(columns)
    rows: dict[str, dict[int, Column]] = {s.name: {} for s in specs if s.name not in columns}
    for key, column in columns.items():
        name, _, number = key.rpartition("_")
        if name in rows and number.isdecimal() and len(number) < LONGEST_NUMBER:
            rows[name][int(number)] = column
            del found[key]
    for name, by_number in rows.items():
        if by_number:
            found[name] = _of_members(f"{path}, arrays '{name}_...'", [by_number[n] for n in sorted(by_number)])
    numbers = sorted({number for by_number in rows.values() for number in by_number})
    for name, by_number in rows.items():
        lacking = next((number for number in numbers if by_number and number not in by_number), None)
        if lacking is not None:
            raise CalibrationError(f"{path}: sample {lacking} has no array '{name}_{lacking}'; add it")
    return found


def _of_members(where: str, members: Sequence[Column]) -> RowColumn:
    def load(row: int) -> Array:
        member = members[row]
        return member.read(range(member.shape[0])) if member.shape else np.asarray(member.read([0]))

    return RowColumn(where, len(members), load, lambda row: members[row].where)


def npz_columns(path: Path) -> dict[str, Column]:
    """Array name -> column, headers checked, values not read yet. CalibrationError for a damaged file."""
    try:
        with zipfile.ZipFile(path) as archive:
            require_plausible(archive, path.stat().st_size)
            columns: dict[str, Column] = {
                name.removesuffix(".npy"): _open_member(path, archive, name) for name in archive.namelist()
            }
    except _DAMAGED as error:
        raise CalibrationError(
            f"{path} cannot be read as .npz ({error}): it is truncated or something else; save it with numpy.savez"
        ) from error
    if not columns:
        raise CalibrationError(f"{path} holds no arrays; save one per input: numpy.savez(path, name=array)")
    return columns


@dataclass(frozen=True)
class MemberColumn:
    """One array inside an `.npz`, streamed: `data_offset` bytes of header, then the rows in C order.

    whole: it is in another order, so that all of it has to be read.
    """

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    data_offset: int
    whole: bool = False

    @property
    def where(self) -> str:
        return f"{self.path}, array '{self.member.removesuffix('.npy')}'"

    def read(self, rows: Sequence[int]) -> Array:
        if self.whole:
            return self._read_whole()[np.asarray(rows, np.int64)]
        values = room_for((len(rows), *self.shape[1:]), self.dtype, self.where)
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        flat = values.reshape(-1).view(np.uint8)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                for place, row in enumerate(rows):
                    stream.seek(self.data_offset + row * size)
                    chunk = stream.read(size)
                    if len(chunk) != size:
                        raise EOFError(f"row {row} is cut off")
                    flat[place * size : (place + 1) * size] = np.frombuffer(chunk, np.uint8)
        except _DAMAGED as error:
            raise CalibrationError(f"{self.where} is damaged ({error}); save the file again") from error
        return values

    def _read_whole(self) -> Array:
        room_for(self.shape, self.dtype, self.where)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                found: Array = np.lib.format.read_array(stream, allow_pickle=False)
                return found
        except _DAMAGED as error:
            raise CalibrationError(f"{self.where} is damaged ({error}); save the file again") from error


def _open_member(path: Path, archive: zipfile.ZipFile, member: str) -> Column:
    where = f"{path}, array '{member.removesuffix('.npy')}'"
    info = archive.getinfo(member)
    with archive.open(info) as stream:
        shape, fortran_order, dtype = read_array_header(stream)
        data_offset = stream.tell()
    if dtype.hasobject:
        raise CalibrationError(
            f"{where} holds Python objects, which are not read; save arrays of numbers, samples of different shapes "
            "one by one under <input>_<number>"
        )
    if any(side < 0 for side in shape) or not dtype.itemsize:
        raise CalibrationError(f"{where} is damaged (its header says {dtype}{list(shape)}); save the file again")
    if info.file_size != data_offset + dtype.itemsize * math.prod(shape):
        raise CalibrationError(f"{where} is damaged (its header does not match its length); save the file again")
    if not shape:
        with archive.open(info) as stream:
            return MemoryColumn(where, np.lib.format.read_array(stream, allow_pickle=False))
    return MemberColumn(path, member, shape, dtype, data_offset, fortran_order)


def read_npy(path: Path, specs: Sequence[InputSpec], limit: int | None) -> Feeds:
    """Feeds of a model with one input from one `.npy`, first axis = samples."""
    if len(specs) != 1:
        listed = ", ".join(f"'{s.name}'" for s in specs)
        raise CalibrationError(
            f"{path} is one array, but the model has {len(specs)} inputs ({listed}); give an .npz with one array each"
        )
    return assemble({specs[0].name: MemoryColumn(str(path), open_npy(path))}, specs, source=str(path), limit=limit)


def open_npy(path: Path) -> Array:
    """The array of an `.npy` file, mapped rather than read. CalibrationError for a damaged file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGED as error:
        raise CalibrationError(
            f"{path} cannot be read as .npy ({error}): it is truncated or something else; save it with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray):
        raise CalibrationError(f"{path} is no .npy file, but an .npz archive; rename it")
    return array
