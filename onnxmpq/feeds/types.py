"""Calibration data once it is read: arrays per model input, first axis = samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True)
class InputSpec:
    """One input of the model as it declares itself.

    shape: one entry per axis; an int is fixed, a str (symbolic name) or None is dynamic.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str | None, ...]

    @property
    def batch_is_dynamic(self) -> bool:
        return bool(self.shape) and not isinstance(self.shape[0], int)


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
    """Samples for every input of a model.

    arrays: input name -> array whose first axis counts samples. Where `whole[name]` is false, one sample is
        `array[i:i+1]` (axis 0 is the model's batch axis, dynamic or 1); where true, one sample is `array[i]`
        (the model's input has another fixed first dimension, or none at all).
    source: what the samples are, in words, for the report.
    synthetic: True where no data was given and the values are made up.
    notes: what was assumed, skipped or repaired, a line each, to be shown to the user.
    places: where the samples come from; None where they are the whole source, in order.
    """

    arrays: dict[str, Array]
    specs: tuple[InputSpec, ...]
    source: str
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())
    places: Places | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def _whole(self, spec: InputSpec) -> bool:
        return self.arrays[spec.name].ndim == len(spec.shape) + 1

    @property
    def batchable(self) -> bool:
        """True where several samples can go through the model in one run."""
        return all(s.batch_is_dynamic and not self._whole(s) for s in self.specs)

    def batch(self, indices: Sequence[int]) -> dict[str, Array]:
        """The model's inputs for these samples, in one run; more than one index needs `batchable`."""
        if len(indices) != 1 and not self.batchable:
            raise ValueError("this model takes one sample per run")
        return {
            s.name: self.arrays[s.name][indices[0]] if self._whole(s) else self.arrays[s.name][np.asarray(indices)]
            for s in self.specs
        }

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """The samples in order, `size` per run where the model allows it, else one per run."""
        step = max(size, 1) if self.batchable else 1
        for start in range(0, len(self), step):
            yield self.batch(range(start, min(start + step, len(self))))

    def label(self, sample: int) -> str:
        """A sample's name in a message: its file, or its place in the source."""
        if self.places is None:
            return str(sample)
        names = self.places.rows if self.places.files is None else self.places.files
        return ", ".join(str(name) for name in np.atleast_1d(names[sample]))

    def take(self, indices: Sequence[int]) -> Feeds:
        """The same feeds restricted to these samples, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        places = (self.places or whole_source(len(self)))[chosen]
        return replace(self, arrays={n: a[chosen] for n, a in self.arrays.items()}, places=places)
