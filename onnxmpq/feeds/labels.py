"""Reader of labels: one for every sample that was kept, whatever was skipped or left out on the way.

Labels are matched by position (entry i belongs to row i of the source: array row, picture in natural order, line,
window) or, in a CSV of two columns, by file name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.lines import cells, choose_lines
from onnxmpq.feeds.npz import npz_columns, open_npy
from onnxmpq.feeds.types import Array, Feeds, Places, whole_source
from onnxmpq.files import nearest_names

Labels = NDArray[np.generic]


def read_labels(path: object, samples: Feeds) -> Labels:
    """Labels of these samples, [samples, ...], or [samples, k, ...] where k rows of the source make one sample.

    path: `.npy`; `.npz` with one array, or `file.npz:name`; `.csv` with one number per line, or `file name,number`
        (relative to the folder of samples, or the bare name where no two files share it). A header is skipped.
        From Python also an array, or a list of numbers.
    Numbers only, of any shape per sample; integers stay integers.
    Raises CalibrationError where the labels are not those of the source that the samples were read from.
    """
    given = f" {path}" if isinstance(path, str | PathLike) else ""
    if samples.synthetic:
        raise CalibrationError(f"labels{given} were given, but the samples are made up; give calibration data too")
    places = samples.places or whole_source(len(samples))
    if not isinstance(path, str | PathLike):
        return _by_position(_as_array(path), "labels", places)
    file, _, name = str(path).partition(".npz:")
    if name:
        return _by_position(_npz_array(Path(f"{file}.npz"), name), f"{file}.npz, array '{name}'", places)
    return _read_file(Path(path), places)


def _as_array(labels: object) -> Array:
    try:
        return np.asarray(labels)
    except ValueError as error:  # a list of lists of several lengths
        raise CalibrationError(f"labels are no array of one shape ({error}); give one label per sample") from None


def _read_file(path: Path, places: Places) -> Labels:
    if not os.path.isfile(path):
        raise CalibrationError(f"labels {path} do not exist; check the path")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _by_position(open_npy(path), str(path), places)
    if suffix == ".npz":
        return _by_position(_npz_array(path, None), str(path), places)
    if suffix == ".csv":
        return _read_csv(path, places)
    raise CalibrationError(f"labels {path} are of no known kind; give .npy, .npz (or file.npz:name) or .csv")


def _npz_array(path: Path, name: str | None) -> Array:
    columns = npz_columns(path)
    listed = ", ".join(f"'{key}'" for key in columns)
    if name is None and len(columns) > 1:
        raise CalibrationError(f"labels {path} hold several arrays ({listed}); name one as {path.name}:NAME")
    if name is not None and name not in columns:
        raise CalibrationError(f"labels {path} have no array '{name}'; there are: {listed}")
    column = columns[name or next(iter(columns))]
    if not column.shape:
        raise CalibrationError(f"{column.where} is a single number; give one label per sample")
    return column.read(range(column.shape[0]))


def _by_position(labels: Array, where: str, places: Places) -> Labels:
    """The labels of these rows. CalibrationError unless there are as many as the source has rows, all finite."""
    count = len(labels) if labels.ndim else 0
    if labels.dtype.kind not in "biuf":
        raise CalibrationError(f"{where} holds {labels.dtype} values; give labels as numbers")
    if places.total not in (None, count):
        raise CalibrationError(
            f"{where} holds {count} labels, but the calibration source has {places.total} samples; "
            "give one label per sample, in the same order"
            + (", or a .csv of file name,label" if places.files is not None else "")
        )
    needed = int(places.rows.max(initial=-1)) + 1
    if count < needed:
        raise CalibrationError(f"{where} holds {count} labels, but {needed} samples were read; label all of them")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise CalibrationError(f"{where} holds NaN or infinite labels; correct them")
    return np.ascontiguousarray(labels[places.rows])


def _read_csv(path: Path, places: Places) -> Labels:
    lines, _ = choose_lines([path], None)
    rows = [[cell.strip() for cell in cells(line)] for line in lines]
    if rows and _number(rows[0][-1]) is None:
        lines, rows = lines[1:], rows[1:]  # a header
    if not rows:
        raise CalibrationError(f"labels {path} hold no rows; add one per sample")
    columns = len(rows[0])
    if columns > 2:
        raise CalibrationError(f"{lines[0].where} has {columns} columns; give a label, or a file name and a label")
    numbers: list[int | float] = []
    for line, row in zip(lines, rows, strict=True):
        number = _number(row[-1])
        if len(row) != columns or number is None:
            raise CalibrationError(
                f"{line.where}: {line.text!r} is no label; write {'file name,' * (columns - 1)}number"
            )
        numbers.append(number)
    if columns == 1:
        return _by_position(np.asarray(numbers), str(path), places)
    names: dict[str, int | float] = {}
    for line, row, number in zip(lines, rows, numbers, strict=True):
        if names.setdefault(row[0], number) != number:
            raise CalibrationError(f"{line.where}: '{row[0]}' has two labels; keep one")
    return _by_name(names, path, places)


def _number(cell: str) -> int | float | None:
    """The finite number in a cell, or None."""
    for parse in (int, float):
        try:
            number = parse(cell)
            return number if math.isfinite(number) else None
        except (ValueError, OverflowError):  # a whole number that no float holds
            continue
    return None


def _by_name(labels: Mapping[str, int | float], path: Path, places: Places) -> Labels:
    if places.files is None:
        raise CalibrationError(
            f"labels {path} go by file name, but the samples are not files; give one number per sample, in their order"
        )
    files = np.unique(places.files).tolist()
    known, wanted = _bare_names(labels), _bare_names(files)
    found = []
    for file in places.files.ravel().tolist():
        bare = PurePosixPath(file).name
        key = file if file in labels else known[bare] if bare in known and bare in wanted else None
        if key is None:
            near = nearest_names(file, labels)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "add it"
            raise CalibrationError(f"labels {path} have none for '{file}'; {hint}")
        found.append(labels[key])
    return np.asarray(found).reshape(places.rows.shape)


def _bare_names(paths: Iterable[str]) -> dict[str, str]:
    """File name without folders -> its path, for the names that no two paths share."""
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(PurePosixPath(path).name, []).append(path)
    return {name: same[0] for name, same in by_name.items() if len(same) == 1}
