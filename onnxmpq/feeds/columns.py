"""From the data of each input to `Feeds`.

Readers of ready-made arrays (npz, npy, rows, Python objects) hand their data over as columns, which are read only after
their shapes are known to fit, and only in the chosen samples: memory is bounded by what is kept. An input has an array
for all samples, an array for each of them (which may differ in shape), or one value for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.fit import Layout, check_names, find_layout, fixed_batch, require_finite, rows_per_sample, to_dtype
from onnxmpq.feeds.memory import room_for
from onnxmpq.feeds.select import spread
from onnxmpq.feeds.types import Array, Feeds, InputSpec, Places, whole_source


class Column(Protocol):
    """The data of one input as one array, first axis = rows, read on demand."""

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
class RowColumn:
    """The data of one input as one array per row, perhaps of different shapes, each read on demand.

    name: of a row in a message.
    """

    where: str
    count: int
    load: Callable[[int], Array]
    name: Callable[[int], str]


class Laid(Protocol):
    """One input, cut into samples. left_over: rows behind the last whole sample."""

    @property
    def count(self) -> int: ...

    @property
    def left_over(self) -> int: ...

    def rows(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        """Rows of the source that each sample is: int64 [samples], or [samples, k] where it takes several."""

    def read(self, chosen: Sequence[int]) -> Array | list[Array]:
        """Values of these samples in the input's dtype: an array, or a list where shapes differ."""

    @property
    def notes(self) -> Sequence[str]:
        """Conversions done by `read`."""


def assemble(
    columns: Mapping[str, Column | RowColumn],
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
    batch = fixed_batch(specs)
    inputs = {s.name: _lay_out(columns[s.name], s, loose=batch is not None) for s in specs}
    left_over = max(laid.left_over for laid in inputs.values())
    cut = f"the last {left_over} rows were dropped (the model takes {batch} at once)"
    return gather(inputs, specs, source=source, limit=limit, notes=[*notes, *[cut] * bool(left_over)], places=places)


def gather(
    inputs: Mapping[str, Laid],
    specs: Sequence[InputSpec],
    *,
    source: str,
    limit: int | None = None,
    notes: Iterable[str] = (),
    places: Places | None = None,
) -> Feeds:
    """As `assemble`, from inputs that are cut into samples already."""
    counts = {name: laid.count for name, laid in inputs.items()}
    count = max(counts.values())
    if any(number not in (1, count) for number in counts.values()):
        listed = ", ".join(f"'{name}' {number}" for name, number in counts.items())
        raise CalibrationError(
            f"{source}: the inputs have different numbers of samples ({listed}); give every input the same number, "
            "or one value for all"
        )
    chosen, all_notes = spread(count, limit), dict.fromkeys(notes)
    arrays, ragged, shared = dict[str, Array](), dict[str, tuple[Array, ...]](), dict[str, Array]()
    for spec in specs:
        laid = inputs[spec.name]
        if laid.count < count:
            shared[spec.name] = np.array(np.asarray(laid.read([0]))[0, ...])
            all_notes[f"input '{spec.name}': one value for all {count} samples"] = None
        else:
            values = laid.read(chosen)
            if isinstance(values, list):
                ragged[spec.name] = tuple(values)
            else:
                arrays[spec.name] = values
        all_notes |= dict.fromkeys(laid.notes)
    kept = f"{count} samples" if len(chosen) == count else f"{len(chosen)} of {count} samples, evenly spread"
    if ragged:
        kept += f", of different shapes: {_sizes(ragged)}"
    first = next(laid for laid in inputs.values() if laid.count == count)
    known = (places or whole_source(int(first.rows(range(count)).max()) + 1))[first.rows(chosen)]
    return Feeds(arrays, tuple(specs), f"{source} ({kept})", False, tuple(all_notes), known, ragged, shared)


def _sizes(ragged: Mapping[str, Sequence[Array]]) -> str:
    """Smallest and largest shape of each input, `x 80x12 to 80x340`."""
    ends = {name: (min(v, key=np.size), max(v, key=np.size)) for name, v in ragged.items()}
    return ", ".join(f"'{name}' {_by(low)} to {_by(high)}" for name, (low, high) in ends.items())


def _by(values: Array) -> str:
    return "x".join(map(str, values.shape))


def _lay_out(column: Column | RowColumn, spec: InputSpec, *, loose: bool) -> Laid:
    if isinstance(column, RowColumn):
        return _RowByRow(column, spec)
    if isinstance(column, MemoryColumn) and not column.shape and not spec.shape:
        column = MemoryColumn(column.where, column.array[None])  # a number for all samples
    return _Together(column, spec, find_layout(spec, column.shape, column.where, loose=loose))


@dataclass(frozen=True)
class _Together:
    """An input whose samples are rows of one array."""

    column: Column
    spec: InputSpec
    layout: Layout
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.layout.samples

    @property
    def left_over(self) -> int:
        return self.layout.left_over

    def rows(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        return _sample_rows(chosen, self.layout.rows)

    def read(self, chosen: Sequence[int]) -> Array:
        if self.layout.axis:
            numbers = list(range(self.column.shape[0]))
            values = self.layout.split(self._checked(numbers))[np.asarray(chosen, np.int64)]
        else:
            numbers = self.rows(chosen).ravel().tolist()
            values = self._checked(numbers).reshape(len(chosen), *self.layout.sample)
        return values

    def _checked(self, numbers: Sequence[int]) -> Array:
        where = self.column.where
        values, note = to_dtype(require_finite(self.column.read(numbers), numbers, where), self.spec, where)
        self.notes.extend([note] if note else [])
        return values


@dataclass(frozen=True)
class _RowByRow:
    """An input whose samples are read one by one."""

    column: RowColumn
    spec: InputSpec
    notes: list[str] = field(default_factory=list)

    @cached_property
    def group(self) -> int:
        """Rows of a sample: those of a model with a fixed batch, where a row has no axis for it."""
        short = self.column.load(0).ndim < len(self.spec.shape)
        return rows_per_sample(self.spec) if short else 1

    @property
    def count(self) -> int:
        group = self.group
        if self.column.count < group:
            raise CalibrationError(
                f"{self.column.where} has {self.column.count} rows, and input '{self.spec.name}' takes {group} at a "
                f"time: give a multiple of {group} rows"
            )
        return self.column.count // group

    @property
    def left_over(self) -> int:
        return self.column.count % self.group

    def rows(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        return _sample_rows(chosen, self.group)

    def read(self, chosen: Sequence[int]) -> Array | list[Array]:
        rows = self.rows(chosen).reshape(len(chosen), -1).tolist()
        return one_array((self._sample(numbers) for numbers in rows), len(chosen), self.spec, self.column.where)

    def _sample(self, numbers: Sequence[int]) -> Array:
        parts = [self._loaded(number) for number in numbers]
        apart = next((n for n, p in zip(numbers, parts, strict=True) if p.shape != parts[0].shape), None)
        if apart is not None:
            raise CalibrationError(
                f"{self.column.name(apart)} has another shape than {self.column.name(numbers[0])}, and the model takes "
                f"{len(numbers)} at once; give those the same shape"
            )
        layout = find_layout(self.spec, (len(parts), *parts[0].shape), self.column.name(numbers[0]))
        sample: Array = layout.split(np.stack([self._checked(p, n) for p, n in zip(parts, numbers, strict=True)]))[
            0, ...
        ]
        return sample

    def _loaded(self, number: int) -> Array:
        """A row, with the batch axis where that is not the first."""
        array, axis = self.column.load(number), self.spec.batch_axis
        return np.expand_dims(array, axis) if axis and array.ndim < len(self.spec.shape) else array

    def _checked(self, array: Array, number: int) -> Array:
        where = self.column.name(number)
        values, note = to_dtype(require_finite(array[None], [number], where), self.spec, where)
        self.notes.extend([note] if note else [])
        found: Array = values[0, ...]
        return found


@dataclass(frozen=True)
class Elements:
    """An input whose samples are at hand. group: how many rows of the source each of them is."""

    spec: InputSpec
    values: Sequence[Array]
    where: str
    group: int = 1
    left_over: int = 0
    notes: Sequence[str] = ()

    @property
    def count(self) -> int:
        return len(self.values)

    def rows(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        return _sample_rows(chosen, self.group)

    def read(self, chosen: Sequence[int]) -> Array | list[Array]:
        return one_array((self.values[number] for number in chosen), len(chosen), self.spec, self.where)


def one_array(values: Iterable[Array], count: int, spec: InputSpec, where: str) -> Array | list[Array]:
    """`count` samples in one array, or as a list where they differ in shape; then all with the batch axis if one has
    it."""
    together: Array | None = None
    apart: list[Array] = []
    for place, value in enumerate(values):
        if together is None:
            together = room_for((count, *value.shape), spec.dtype, where)
        if not apart and value.shape == together.shape[1:]:
            together[place, ...] = value  # of strings, so that an array does not become an element
            continue
        apart = apart or [np.array(v) for v in together[:place]]
        apart.append(value)
    if not apart:
        assert together is not None
        return together
    rank = max(value.ndim for value in apart)
    complete = [np.expand_dims(v, spec.batch_axis) if v.ndim < rank else v for v in apart]
    return complete if any(v.shape != complete[0].shape for v in complete) else np.stack(complete)


def _sample_rows(chosen: Sequence[int], rows: int) -> NDArray[np.int64]:
    """Rows of each sample: int64 [samples], or [samples, rows] where it takes several."""
    first = np.asarray(chosen, np.int64) * rows
    return first if rows == 1 else first[:, None] + np.arange(rows)
