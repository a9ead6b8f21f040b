"""Statistics in the place of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 2**20  # elements


@dataclass(frozen=True)
class Statistics:
    """Of an array: dtype as NumPy names it, shape, and over its finite values minimum, maximum, mean and standard
    deviation; how many values are zero, NaN, +infinity and -infinity."""

    dtype: str
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    zeros: int = 0
    nan: int = 0
    positive_inf: int = 0
    negative_inf: int = 0

    @classmethod
    def of(cls, array: NDArray[Any]) -> Statistics:
        """Of numbers or booleans; of strings only dtype and shape."""
        name, shape = array.dtype.name, tuple(int(d) for d in array.shape)
        if array.dtype.kind in "OSU":
            return cls("str", shape)
        if array.dtype.kind == "c":
            array = np.abs(array)
        parts = [_Part.of(chunk) for chunk in _chunks(array)]
        count = sum(p.finite for p in parts)
        zeros, nan, positive, negative = (sum(getattr(p, n) for p in parts) for n in ("zeros", "nan", "above", "below"))
        if not count:
            return cls(name, shape, nan=nan, positive_inf=positive, negative_inf=negative)
        mean = sum(p.total for p in parts) / count
        spread = sum(p.squares - 2 * mean * p.total + p.finite * mean * mean for p in parts) / count
        low, high = min(p.low for p in parts if p.finite), max(p.high for p in parts if p.finite)
        return cls(name, shape, low, high, mean, float(np.sqrt(max(spread, 0.0))), zeros, nan, positive, negative)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Statistics:
        """The inverse of `dataclasses.asdict`. Raises TypeError or KeyError for other fields."""
        return cls(**{**fields, "shape": tuple(fields["shape"])})

    def array(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """Random float64 values with these statistics, in this shape: a clipped normal distribution, and as many zeros
        and non-finite values."""
        values = generator.normal(self.mean, self.std, self.shape).clip(self.low, self.high)
        flat = values.reshape(-1)
        order = generator.permutation(flat.size)
        start = 0
        for count, value in (
            (self.zeros, 0.0),
            (self.nan, np.nan),
            (self.positive_inf, np.inf),
            (self.negative_inf, -np.inf),
        ):
            flat[order[start : start + count]] = value
            start += count
        return np.asarray(flat.reshape(self.shape))


@dataclass(frozen=True)
class _Part:
    finite: int
    low: float
    high: float
    total: float
    squares: float
    zeros: int
    nan: int
    above: int
    below: int

    @classmethod
    def of(cls, chunk: NDArray[np.float64]) -> _Part:
        finite = chunk[np.isfinite(chunk)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        counts = [int(np.count_nonzero(found)) for found in (np.isnan(chunk), np.isposinf(chunk), np.isneginf(chunk))]
        zeros = int(np.count_nonzero(finite == 0))
        return cls(finite.size, low, high, float(finite.sum()), float(np.square(finite).sum()), zeros, *counts)


def _chunks(array: NDArray[Any]) -> list[NDArray[np.float64]]:
    flat = array.reshape(-1)
    return [flat[i : i + _AT_ONCE].astype(np.float64) for i in range(0, flat.size, _AT_ONCE)]
