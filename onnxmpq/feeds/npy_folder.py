"""Reader of folders of `.npy` files, one sample per file.

Three arrangements: `*.npy` (a model with one input), `<input>/*.npy`, and `<input>_<number>.npy`. Characters of an
input's name that file names do not take (`/`, `:`, ...) are written `_`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.files import file_places
from onnxmpq.feeds.fit import assemble
from onnxmpq.feeds.memory import room_for
from onnxmpq.feeds.npz import open_npy
from onnxmpq.feeds.select import natural_order
from onnxmpq.feeds.types import Array, Feeds, InputSpec


def read_npy_folder(folder: Path, specs: Sequence[InputSpec], limit: int | None) -> Feeds:
    """Feeds from a folder of `.npy` files in natural order (2 before 10), see above for its arrangement."""
    files = find_npy_files(folder, specs)
    columns = {name: FilesColumn(paths) for name, paths in files.items()}
    named = files[specs[0].name]
    places = file_places(folder, named, range(len(named)), len(named))
    return assemble(columns, specs, source=str(folder), limit=limit, places=places)


def find_npy_files(folder: Path, specs: Sequence[InputSpec]) -> dict[str, tuple[Path, ...]]:
    """Input name -> its files in natural order, at least one each."""
    if any((folder / file_name(s.name)).is_dir() for s in specs):
        found = {s.name: _npy_files(folder / file_name(s.name)) for s in specs}
    elif len(specs) == 1:
        found = {specs[0].name: _npy_files(folder)}
    else:
        found = _numbered_files(folder, specs)
    for name, paths in found.items():
        if not paths:
            raise CalibrationError(
                f"{folder} has no .npy file for input '{name}'; save one sample per file, as "
                f"{file_name(name)}/0.npy, ... or {file_name(name)}_0.npy, ..."
            )
    return found


def file_name(input_name: str) -> str:
    """The input's name as it appears in file names."""
    return re.sub(r"[^\w.-]", "_", input_name)


def _npy_files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.npy"), key=lambda path: natural_order(path.name)))


def _numbered_files(folder: Path, specs: Sequence[InputSpec]) -> dict[str, tuple[Path, ...]]:
    """Files `<input>_<number>.npy` by input; every input must have the same numbers."""
    by_prefix = {file_name(s.name): s.name for s in specs}
    numbered: dict[str, dict[int, Path]] = {s.name: {} for s in specs}
    for path in _npy_files(folder):
        match = re.fullmatch(r"(.+)_(\d+)\.npy", path.name)
        if match is None or match[1] not in by_prefix:
            raise CalibrationError(
                f"{path} belongs to no input of the model; call the files <input>_<number>.npy "
                f"with input one of {', '.join(by_prefix)}"
            )
        numbered[by_prefix[match[1]]][int(match[2])] = path
    numbers = sorted(set().union(*numbered.values()))
    for name, paths in numbered.items():
        for number in numbers:
            if paths and number not in paths:
                raise CalibrationError(
                    f"{folder}: sample {number} has no file for input '{name}'; "
                    f"add {file_name(name)}_{number}.npy or remove that sample's other files"
                )
    return {name: tuple(paths[number] for number in sorted(paths)) for name, paths in numbered.items()}


@dataclass(frozen=True)
class FilesColumn:
    """One file per row, all of one shape and dtype."""

    paths: tuple[Path, ...]

    @property
    def where(self) -> str:
        return str(self.paths[0].parent)

    @cached_property
    def _first(self) -> Array:
        return open_npy(self.paths[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.paths), *self._first.shape)

    def read(self, rows: Sequence[int]) -> Array:
        values = room_for((len(rows), *self._first.shape), self._first.dtype, self.where)
        for place, row in enumerate(rows):
            array = open_npy(self.paths[row])
            if array.shape != self._first.shape or array.dtype != self._first.dtype:
                raise CalibrationError(
                    f"{self.paths[row]} is {array.dtype}{list(array.shape)}, but {self.paths[0].name} is "
                    f"{self._first.dtype}{list(self._first.shape)}; give every sample the same shape and dtype"
                )
            values[place] = array
        return values
