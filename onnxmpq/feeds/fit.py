"""Do these arrays fit this model? Names, shapes, dtypes, finite values: the one place where that is decided.

Every reader of ready-made arrays (npz, npy, rows, Python objects) hands its data over as columns, which are read
only after their shapes are known to fit, and only in the chosen samples: memory is bounded by what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.select import spread
from onnxmpq.feeds.types import Array, Feeds, InputSpec, Places, whole_source


class Column(Protocol):
    """The data of one input, first axis = rows, read on demand."""

    @property
    def where(self) -> str:
        """Its name in a message: file and array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, rows: Sequence[int]) -> Array:
        """These rows (ascending), in this order, of shape (len(rows), *shape[1:])."""


@dataclass(frozen=True)
class MemoryColumn:
    """A column that is an array already (in memory, or mapped from a file)."""

    where: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self, rows: Sequence[int]) -> Array:
        if len(rows) == len(self.array):
            return np.asarray(self.array)
        return np.asarray(self.array[np.asarray(rows, dtype=np.int64)])


@dataclass(frozen=True)
class Layout:
    """The place of samples in an array: `samples` of them, each `rows` consecutive rows, kept with shape `sample`."""

    samples: int
    rows: int
    sample: tuple[int, ...]


def show_shape(shape: Sequence[int | str | None]) -> str:
    """`[N, 3, ?]`: the way shapes are written in messages."""
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in shape) + "]"


def rows_per_sample(spec: InputSpec) -> int:
    """Rows of the model's first axis that make one sample: 1, unless that axis is fixed to another number."""
    first = spec.shape[0] if spec.shape else None
    return first if isinstance(first, int) and first > 0 else 1


def without_rows(spec: InputSpec) -> bool:
    """True if the model's first axis is fixed to 0, so that samples can only be counted by an axis in front of it."""
    return spec.shape[:1] == (0,)


def find_layout(spec: InputSpec, shape: tuple[int, ...], where: str) -> Layout:
    """Samples' place in an array of `shape`, of the input `spec` (see `Feeds`); CalibrationError if it does not."""
    rank = len(spec.shape)
    if shape[:1] == (0,):
        raise CalibrationError(f"{where} is empty (shape {show_shape(shape)}): it holds no samples; add some")
    if len(shape) == rank + 1:
        _check_axes(spec, spec.shape, shape[1:], shape, where)
        one = rank > 0 and shape[1] == 1 and rows_per_sample(spec) == 1
        return Layout(shape[0], 1, shape[2:] if one else shape[1:])
    if len(shape) != rank or rank == 0 or without_rows(spec):
        raise CalibrationError(f"{where} has shape {show_shape(shape)}, {_wanted(spec)}")
    _check_axes(spec, spec.shape[1:], shape[1:], shape, where)
    group = rows_per_sample(spec)
    if shape[0] % group:
        raise CalibrationError(
            f"{where} has {shape[0]} rows, and input '{spec.name}' takes {group} at a time: "
            f"give a multiple of {group} rows"
        )
    return Layout(shape[0] // group, group, shape[1:] if group == 1 else (group, *shape[1:]))


def _check_axes(
    spec: InputSpec,
    declared: Sequence[int | str | None],
    given: Sequence[int],
    shape: Sequence[int],
    where: str,
) -> None:
    if any(isinstance(want, int) and want != have for want, have in zip(declared, given, strict=True)):
        raise CalibrationError(f"{where} has shape {show_shape(shape)}, {_wanted(spec)}")


def _wanted(spec: InputSpec) -> str:
    takes = f"but input '{spec.name}' of the model takes {show_shape(spec.shape)}"
    if not spec.shape or without_rows(spec) or rows_per_sample(spec) > 1:
        return f"{takes}: give {show_shape(['samples', *spec.shape])}"
    return f"{takes}: give {show_shape(['samples', *spec.shape[1:]])}"


def assemble(
    columns: Mapping[str, Column],
    specs: Sequence[InputSpec],
    *,
    source: str,
    limit: int | None = None,
    notes: Sequence[str] = (),
    places: Places | None = None,
) -> Feeds:
    """Feeds from one column per input of the model, at most `limit` samples spread evenly.

    source: what the data is, in words; it starts the messages about the whole of it. places: of the columns' rows,
    where those are not all rows of the source already.
    Raises CalibrationError for names, shapes, dtypes, counts or values that do not fit.
    """
    check_names(columns, specs, source)
    layouts = {s.name: find_layout(s, columns[s.name].shape, columns[s.name].where) for s in specs}
    counts = {name: layout.samples for name, layout in layouts.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise CalibrationError(
            f"{source}: the inputs have different numbers of samples ({listed}); give every input the same number"
        )
    count = next(iter(counts.values()))
    chosen = spread(count, limit)
    arrays: dict[str, Array] = {}
    all_notes = list(notes)
    for spec in specs:
        column, layout = columns[spec.name], layouts[spec.name]
        rows = _sample_rows(chosen, layout.rows).ravel().tolist()
        values, note = to_dtype(_finite(column.read(rows), rows, column.where), spec, column.where)
        arrays[spec.name] = values.reshape(len(chosen), *layout.sample)
        all_notes += [note] if note else []
    kept = f"{count} samples" if len(chosen) == count else f"{len(chosen)} of {count} samples, evenly spread"
    known = (places or whole_source(columns[specs[0].name].shape[0]))[_sample_rows(chosen, layouts[specs[0].name].rows)]
    return Feeds(arrays, tuple(specs), f"{source} ({kept})", notes=tuple(all_notes), places=known)


def _sample_rows(chosen: Sequence[int], rows: int) -> NDArray[np.int64]:
    """Rows of each sample: int64 [samples], or [samples, rows] where it takes several."""
    first = np.asarray(chosen, np.int64) * rows
    return first if rows == 1 else first[:, None] + np.arange(rows)


def check_names(given: Mapping[str, object], specs: Sequence[InputSpec], where: str) -> None:
    """CalibrationError unless the names given are exactly the model's inputs."""
    inputs = [s.name for s in specs]
    listed = ", ".join(f"'{name}'" for name in inputs)
    missing = [name for name in inputs if name not in given]
    extra = [name for name in given if name not in inputs]
    if missing:
        found = ", ".join(f"'{name}'" for name in given) or "nothing"
        raise CalibrationError(
            f"{where}: input '{missing[0]}' of the model is missing (found {found}); "
            f"name one array after each input: {listed}"
        )
    if extra:
        raise CalibrationError(f"{where}: '{extra[0]}' is no input of the model; take it out (inputs: {listed})")


def _finite(values: Array, rows: Sequence[int], where: str) -> Array:
    """The values unchanged; CalibrationError naming the first NaN or infinity. -inf is let through, for masks."""
    if not is_float(values.dtype):
        return values
    bad = ~(np.isfinite(values) | (values == -np.inf))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        index = ", ".join(str(i) for i in (rows[first[0]], *first[1:]))
        raise CalibrationError(
            f"{where} holds {int(bad.sum())} NaN or infinite value(s), the first ({values[first]}) at index [{index}]; "
            "repair or remove those samples"
        )
    return values


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Floating point, bfloat16 and the 8-bit floats included (which NumPy does not count among its own)."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def type_words(dtype: np.dtype[np.generic]) -> str:
    """A dtype in a message. Types that NumPy does not have are objects, as strings are."""
    return "strings, or a type that NumPy does not have" if dtype.kind == "O" else str(dtype)


def to_dtype(values: Array, spec: InputSpec, where: str) -> tuple[Array, str | None]:
    """The finite `values` in the dtype of `spec`, and a note where that changed the type.

    Floats become other floats, integers other integers that hold them, booleans integers and 0/1 booleans;
    CalibrationError for anything else.
    """
    given, wanted = values.dtype, spec.dtype
    if given == wanted or (wanted.kind == "O" and given.kind in "UO"):
        return values.astype(wanted, copy=False), None
    problem = f"{where} holds {given} values, but input '{spec.name}' takes {type_words(wanted)}"
    if is_float(wanted):
        if not is_float(given):
            raise CalibrationError(
                f"{problem}: convert it as the model expects (for example x.astype('float32') / 255), "
                "or give images with a recipe"
            )
        with np.errstate(over="ignore"):
            converted = values.astype(wanted)
        overflown = (converted == -np.inf) & np.isfinite(values)
        _finite(np.where(overflown, np.inf, converted), range(len(converted)), f"{where}, converted to {wanted},")
    elif given.kind in "iub" and wanted.kind in "iub":
        lowest, highest = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted.str).min, np.iinfo(wanted.str).max)
        smallest, largest = (int(values.min()), int(values.max())) if values.size else (lowest, highest)
        if smallest < lowest or largest > highest:
            raise CalibrationError(f"{problem}, which cannot hold the values {smallest} to {largest}; correct them")
        converted = values.astype(wanted)
    else:
        raise CalibrationError(f"{problem}: give an array of {type_words(wanted)}")
    same = given.newbyteorder("=") == wanted
    return converted, None if same else f"input '{spec.name}': {given} values were converted to {wanted}"
