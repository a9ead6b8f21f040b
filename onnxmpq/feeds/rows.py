"""Reader of rows of numbers without a recipe: CSV (a model with one input) and JSON lines (any number of inputs)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.columns import RowColumn, assemble
from onnxmpq.feeds.fit import is_float, rows_per_sample, to_dtype
from onnxmpq.feeds.lines import Line, cells, choose_lines
from onnxmpq.feeds.types import Array, Feeds, InputSpec
from onnxmpq.files import parse_json


def read_rows(path: Path, specs: Sequence[InputSpec], limit: int | None) -> Feeds:
    """Feeds from `.csv` (each row one sample) or `.jsonl` (each line `{input: values}`, or a list for one input)."""
    if path.suffix.lower() == ".csv" and len(specs) != 1:
        listed = ", ".join(f"'{s.name}'" for s in specs)
        raise CalibrationError(f"{path}: the model has {len(specs)} inputs ({listed}); use .jsonl or .npz, not .csv")
    lines, places = choose_lines([path], None if limit is None else limit * rows_per_sample(specs[0]), is_data)
    if not lines:
        raise CalibrationError(f"{path} holds no rows; add samples")
    items = [parse_line(line) for line in lines]
    columns = {s.name: _column(lines, [_values(item, s, specs) for item in items], s) for s in specs}
    return assemble(columns, specs, source=f"{path}, from {places.total} rows", limit=limit, places=places)


def is_data(line: Line) -> bool:
    """False for the header of a CSV file: a first line in which no cell is a number."""
    if line.number > 1 or line.path.suffix.lower() != ".csv":
        return True
    return any(_parse_cell(cell) is not None for cell in cells(line))


def parse_line(line: Line) -> object:
    """A CSV row as a list of numbers, or whatever JSON the line holds. CalibrationError naming the line."""
    if line.path.suffix.lower() == ".csv":
        row = cells(line)
        numbers = [_parse_cell(cell) for cell in row]
        if None in numbers:
            raise CalibrationError(f"{line.where}: {row[numbers.index(None)]!r} is no number; correct the row")
        return numbers
    try:
        return parse_json(line.text, wide=True)
    except ValueError as error:
        raise CalibrationError(f"{line.where} is not JSON ({error}); correct it") from error


def _parse_cell(cell: str) -> int | float | None:
    for parse in (int, float):
        try:
            return parse(cell)
        except ValueError:
            pass
    return None


def _values(item: object, spec: InputSpec, specs: Sequence[InputSpec]) -> object:
    """The values of one parsed line for this input, None where it has none."""
    if isinstance(item, list) and len(specs) == 1:
        return item
    return item.get(spec.name) if isinstance(item, dict) else None


def _column(lines: Sequence[Line], values: Sequence[object], spec: InputSpec) -> RowColumn:
    """One input's values in each line, parsed, not yet arrays; one value for all where only the first line has any."""
    common = values[0] is not None and len(values) > 1 and all(value is None for value in values[1:])
    return RowColumn(
        f"{lines[0].path}, input '{spec.name}'",
        1 if common else len(lines),
        lambda row: to_numbers(values[row], spec, lines[row]),
        lambda row: f"{lines[row].where}: input '{spec.name}'",
    )


def to_numbers(value: object, spec: InputSpec, line: Line) -> Array:
    """Parsed JSON, which has no dtypes, as an array of the input's dtype. CalibrationError for what does not fit it."""
    if value is None:
        raise CalibrationError(f"{line.where} has no values for input '{spec.name}'; add them under that name")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise CalibrationError(f"{line.where}: input '{spec.name}' has lists of different lengths") from error
    if array.dtype.kind not in "iufb":
        raise CalibrationError(f"{line.where}: input '{spec.name}' holds {array.dtype} values; give numbers")
    if is_float(spec.dtype):
        array = array.astype(np.float64)
    return np.asarray(to_dtype(array[None], spec, line.where)[0][0]) if array.size else array
