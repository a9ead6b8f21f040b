"""Reader of folders of `.npy` files, one sample per file.

Three arrangements: `*.npy` (a model with one input), `<input>/*.npy`, and `<input>_<number>.npy`. Beside them, or
alone, `<input>.npy` is one array for all samples, as in an `.npz`. Characters of an input's name that file names do not
take (`/`, `:`, ...) are written `_`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.columns import Column, MemoryColumn, RowColumn, assemble
from onnxmpq.feeds.files import file_places
from onnxmpq.feeds.npz import open_npy
from onnxmpq.feeds.select import natural_order
from onnxmpq.feeds.types import Feeds, InputSpec


def read_npy_folder(folder: Path, specs: Sequence[InputSpec], limit: int | None) -> Feeds:
    """Feeds from a folder of `.npy` files in natural order (2 before 10), see above for its arrangement."""
    arrays = {s.name: folder / f"{file_name(s.name)}.npy" for s in specs if len(specs) > 1}
    arrays = {name: path for name, path in arrays.items() if os.path.isfile(path)}
    rest = [s for s in specs if s.name not in arrays]
    files = find_npy_files(folder, rest, set(arrays.values())) if rest else {}
    columns: dict[str, Column | RowColumn] = {n: MemoryColumn(str(p), open_npy(p)) for n, p in arrays.items()}
    columns |= {name: files_column(paths) for name, paths in files.items()}
    named = max(files.values(), key=len, default=())
    places = file_places(folder, named, range(len(named)), len(named)) if len(named) > 1 else None
    return assemble(columns, specs, source=str(folder), limit=limit, places=places)


def find_npy_files(
    folder: Path, specs: Sequence[InputSpec], apart: Collection[Path] = ()
) -> dict[str, tuple[Path, ...]]:
    """Input name -> its files in natural order, at least one each. apart: files that belong to other inputs."""
    if any(os.path.isdir(folder / file_name(s.name)) for s in specs):
        found = {s.name: _npy_files(folder / file_name(s.name)) for s in specs}
    elif len(specs) == 1 and not apart:
        found = {specs[0].name: _npy_files(folder)}
    else:
        found = _numbered_files(folder, specs, apart)
    for name, paths in found.items():
        if not paths:
            raise CalibrationError(
                f"{folder} has no .npy file for input '{name}'; save one sample per file, as "
                f"{file_name(name)}/0.npy, ... or {file_name(name)}_0.npy, ..., or one array as {file_name(name)}.npy"
            )
    return found


def file_name(input_name: str) -> str:
    """The input's name as it appears in file names."""
    return re.sub(r"[^\w.-]", "_", input_name)


def _npy_files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.npy"), key=lambda path: natural_order(path.name)))


def _numbered_files(folder: Path, specs: Sequence[InputSpec], apart: Collection[Path]) -> dict[str, tuple[Path, ...]]:
    """Files `<input>_<number>.npy` by input; every input must have the same numbers."""
    by_prefix = {file_name(s.name): s.name for s in specs}
    numbered: dict[str, dict[int, Path]] = {s.name: {} for s in specs}
    for path in _npy_files(folder):
        if path in apart:
            continue
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


def files_column(paths: Sequence[Path]) -> RowColumn:
    """One file per row, perhaps of different shapes."""
    return RowColumn(str(paths[0].parent), len(paths), lambda row: open_npy(paths[row]), lambda row: str(paths[row]))
