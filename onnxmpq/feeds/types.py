"""What calibration data is, once read: arrays per model input, first axis = samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Feeds:
    """Samples for every input of a model.

    arrays: input name -> array whose first axis counts samples. Where `whole[name]` is false, one sample is
        `array[i:i+1]` (axis 0 is the model's batch axis, dynamic or 1); where true, one sample is `array[i]`
        (the model's input has another fixed first dimension, or none at all).
    source: what the samples are, in words, for the report.
    synthetic: True where no data was given and the values are made up.
    notes: what was assumed, skipped or repaired, a line each, to be shown to the user.
    """

    arrays: dict[str, Array]
    specs: tuple[InputSpec, ...]
    source: str
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())

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

    def take(self, indices: Sequence[int]) -> Feeds:
        """The same feeds restricted to these samples, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Feeds(
            {n: a[chosen] for n, a in self.arrays.items()}, self.specs, self.source, self.synthetic, self.notes
        )
