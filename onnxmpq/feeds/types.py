"""Calibration data once it is read: for every input of the model, one value per sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Step = Literal["decode", "prefill"]
"""Phases of a decoder with a cache: one token a run, or a whole sequence."""
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True)
class InputSpec:
    """One input of the model as it declares itself.

    shape: one entry per axis; an int is fixed, a str (symbolic name) or None is dynamic.
    batch_axis: the axis along which samples lie side by side: 0, or where `with_batch_axes` found it.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str | None, ...]
    batch_axis: int = 0

    def named_batch(self, axis: int) -> bool:
        """True if the name of an axis says that it is the batch."""
        name = str(self.shape[axis] or "").casefold()
        return not isinstance(self.shape[axis], int) and (name in ("n", "b", "bs") or "batch" in name)

    def looks_like_a_state(self, inputs: Sequence[InputSpec]) -> bool:
        """True for [fixed, dynamic, fixed, ...], if no other axis of the inputs has the name of the dynamic one."""
        kinds = [isinstance(size, int) for size in self.shape]
        if kinds[:3] != [True, False, True] or not all(kinds[3:]):
            return False
        return self.shape[1] is None or sum(spec.shape.count(self.shape[1]) for spec in inputs) == 1

    @property
    def batch_is_dynamic(self) -> bool:
        return bool(self.shape) and not isinstance(self.shape[self.batch_axis], int)


def with_batch_axes(specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs with the axis of the batch: states of recurrent layers [layers, batch, features] and inputs [time,
    batch, features] have it second.

    Names of dimensions tell; where none does, an input [2, ?, 64] beside one whose first axis is dynamic is a state.
    """
    named = {s.name: next(filter(s.named_batch, range(len(s.shape))), None) for s in specs}
    if any(axis is not None for axis in named.values()):
        return tuple(replace(s, batch_axis=named[s.name] or 0) for s in specs)
    beside = any(s.shape and not isinstance(s.shape[0], int) for s in specs)
    return tuple(replace(s, batch_axis=int(beside and s.looks_like_a_state(specs))) for s in specs)


@dataclass(frozen=True)
class TokenRun:
    """A sample of a decoder. tokens: new ones of all sequences of the batch. before: tokens in the cache of each."""

    step: Step
    tokens: int
    before: int


@dataclass(frozen=True, eq=False)
class Places:
    """Where samples stand in the source they were read from, so that labels can follow them.

    rows: int64 [samples], or [samples, k] where k rows make one sample. Rows are what the source counts: rows of an
        array, pictures, lines of text, windows of sound.
    total: rows of the source; None where it was not read to its end.
    files: str, the shape of `rows`, path relative to the folder given; None where rows are not files.
    """

    rows: NDArray[np.int64]
    total: int | None
    files: NDArray[np.str_] | None = None

    def __getitem__(self, index: NDArray[np.int64]) -> Places:
        """The places of these samples. An index of [samples, k] gathers k rows for each sample."""
        return Places(self.rows[index], self.total, None if self.files is None else self.files[index])


def whole_source(count: int) -> Places:
    """Places of samples that are all rows of their source, in order."""
    return Places(np.arange(count), count)


@dataclass(frozen=True)
class Feeds:
    """Samples for every input of a model. An input is in one of `arrays`, `ragged` and `shared`.

    arrays: input name -> array whose first axis counts samples, all of one shape.
    ragged: input name -> one array per sample, of different shapes.
    shared: input name -> the one value that all samples have.
    A sample's value has all axes of the input, or lacks the batch axis (dynamic or 1), which `batch` puts in.
    source: what the samples are, in words, for the report.
    synthetic: True where no data was given and the values are made up.
    notes: what was assumed, skipped or repaired, a line each, to be shown to the user.
    places: where the samples come from; None where they are the whole source, in order.
    runs: of a decoder with a cache, one for each sample; empty for other models. step: the phase that is timed; None
    for samples of all phases.
    """

    arrays: dict[str, Array]
    specs: tuple[InputSpec, ...]
    source: str
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())
    places: Places | None = None
    ragged: Mapping[str, tuple[Array, ...]] = field(default_factory=dict)
    shared: Mapping[str, Array] = field(default_factory=dict)
    runs: tuple[TokenRun, ...] = ()
    step: Step | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """The phase of each sample; empty for other models than decoders."""
        return tuple(run.step for run in self.runs)

    def __len__(self) -> int:
        for values in self.ragged.values():
            return len(values)
        return len(next(iter(self.arrays.values())))

    def value(self, name: str, sample: int) -> Array:
        """One sample's value of an input, perhaps without its batch axis."""
        if name in self.shared:
            return self.shared[name]
        found: Array = self.ragged[name][sample] if name in self.ragged else self.arrays[name][sample, ...]
        return found

    def values(self, name: str) -> Iterator[Array]:
        """An input's values: sample by sample, or the one that all samples have."""
        yield from (self.value(name, i) for i in range(1 if name in self.shared else len(self)))

    def _whole(self, spec: InputSpec) -> bool:
        """True if a sample's value has the batch axis, or there is none."""
        name = spec.name
        if name in self.arrays:
            return self.arrays[name].ndim == len(spec.shape) + 1
        return (self.shared[name] if name in self.shared else self.ragged[name][0]).ndim == len(spec.shape)

    @property
    def batchable(self) -> bool:
        """True where several samples of one shape can go through the model in one run."""
        return all(s.batch_is_dynamic and not self._whole(s) for s in self.specs)

    def batch(self, indices: Sequence[int]) -> dict[str, Array]:
        """The model's inputs for these samples, in one run.

        More than one index needs `batchable`, and samples of one shape.
        """
        if len(indices) != 1 and not self.batchable:
            raise ValueError("this model takes one sample per run")
        return {s.name: self._stacked(s, indices) for s in self.specs}

    def _stacked(self, spec: InputSpec, indices: Sequence[int]) -> Array:
        if self._whole(spec):
            return self.value(spec.name, indices[0])
        if spec.name in self.arrays:
            rows = self.arrays[spec.name][np.asarray(indices)]
        else:
            rows = np.stack([self.value(spec.name, i) for i in indices])
        return rows if spec.batch_axis == 0 else np.ascontiguousarray(np.moveaxis(rows, 0, spec.batch_axis))

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """The samples in order, at most `size` per run where the model allows it, else one per run."""
        for rows in self.stretches(size):
            yield self.batch(range(rows.start, rows.stop))

    def stretches(self, size: int) -> list[slice]:
        """All samples in order, cut into neighbours that go through the model in one run: of one shape, at most
        `size`."""
        step, found = max(size, 1) if self.batchable else 1, list[slice]()
        for i in range(len(self)):
            if found and i - found[-1].start < step and self.shapes(i) == self.shapes(i - 1):
                found[-1] = slice(found[-1].start, i + 1)
            else:
                found.append(slice(i, i + 1))
        return found

    def shapes(self, sample: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of a sample's values, of the inputs in which samples differ."""
        return tuple(values[sample].shape for values in self.ragged.values())

    def decide(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """True if shapes, one per sample, are the same for samples of the same shapes: those of an output that follows
        its inputs, not of one whose length depends on the values."""
        known: dict[tuple[tuple[int, ...], ...], tuple[int, ...]] = {}
        return all(known.setdefault(self.shapes(i), shape) == shape for i, shape in enumerate(shapes))

    @cached_property
    def sizes(self) -> list[int]:
        """Elements of each sample, all inputs together."""
        alike = sum(math.prod(a.shape[1:]) for a in self.arrays.values()) + sum(v.size for v in self.shared.values())
        return [alike + sum(math.prod(shape) for shape in self.shapes(i)) for i in range(len(self))]

    @property
    def typical(self) -> int:
        """The sample that is timed, and whose shapes costs are modelled for: the first one of median size, of those of
        the phase that is timed."""
        chosen = [i for i in range(len(self)) if self.step is None or self.runs[i].step == self.step]
        ordered = sorted(chosen, key=self.sizes.__getitem__)
        return next(i for i in chosen if self.sizes[i] == self.sizes[ordered[(len(ordered) - 1) // 2]])

    @property
    def timed(self) -> str:
        """The sample that is timed in words, where samples have different shapes; else nothing."""
        if not self.ragged:
            return ""
        inputs = self.batch([self.typical])
        by_shape: dict[str, list[str]] = {}
        for name in self.ragged:
            by_shape.setdefault(str(list(inputs[name].shape)), []).append(f"'{name}'")
        shapes = ", ".join(f"{_few(names)} {shape}" for shape, names in by_shape.items())
        what = "samples have different shapes" if self.step is None else f"--step {self.step}"
        return f"{what}: latency is that of one of median size, {shapes}"

    @property
    def largest(self) -> int:
        """The first sample with most elements, which takes most memory and time."""
        return self.sizes.index(max(self.sizes))

    @property
    def extremes(self) -> list[int]:
        """The largest sample and the smallest one; one index where all have one shape."""
        return list(dict.fromkeys((self.largest, self.sizes.index(min(self.sizes)))))

    @property
    def examples(self) -> dict[str, Array]:
        """Arrays by input for a report of an error: all values, or the largest sample's where shapes differ."""
        return {**self.arrays, **self.shared, **{n: values[self.largest] for n, values in self.ragged.items()}}

    def label(self, sample: int) -> str:
        """A sample's name in a message: its file, or its place in the source."""
        if self.places is None:
            return str(sample)
        names = self.places.rows if self.places.files is None else self.places.files
        return ", ".join(str(name) for name in np.atleast_1d(names[sample]))

    def take(self, indices: Sequence[int]) -> Feeds:
        """The same feeds restricted to these samples, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        arrays = {n: a[chosen] for n, a in self.arrays.items()}
        ragged = {n: tuple(values[i] for i in indices) for n, values in self.ragged.items()}
        places = (self.places or whole_source(len(self)))[chosen]
        runs = tuple(self.runs[i] for i in indices) if self.runs else ()
        step = self.step if self.step in [run.step for run in runs] else None
        return replace(self, arrays=arrays, ragged=ragged, places=places, runs=runs, step=step)


def _few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
