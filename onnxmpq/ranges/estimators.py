"""From a histogram to parameters of 8 or fewer bits: one estimator per entry of `ESTIMATORS`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import UsageError
from onnxmpq.files import nearest
from onnxmpq.ranges.entropy import kept_bins
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.ranges.params import BITS, QuantParams, params_for
from onnxmpq.schemes import ActivationType

_SHRINKS = np.linspace(1.0, 0.3, 36)
_NARROW_SHRINKS = np.geomspace(1.0, 0.03, 60)  # the fewer levels, the more of a long tail is better cut off


def minmax(histogram: Histogram, bits: int = BITS, kind: ActivationType = "uint8") -> QuantParams:
    """The observed minimum and maximum."""
    return params_for(histogram.low, histogram.high, bits, kind)


def percentile(
    histogram: Histogram, bits: int = BITS, kind: ActivationType = "uint8", share: float = 0.9999
) -> QuantParams:
    """Drops the outermost (1 - share) of the values, half on each side where there are both signs."""
    cumulated = np.cumsum(histogram.counts) / max(int(histogram.counts.sum()), 1)
    centers, tail = histogram.centers, 1.0 - share
    both = histogram.low < 0.0 < histogram.high
    cut = tail / 2 if both else tail
    low = centers[int(np.searchsorted(cumulated, cut))] if histogram.low < 0.0 else 0.0
    high = centers[min(int(np.searchsorted(cumulated, 1.0 - cut)), len(centers) - 1)] if histogram.high > 0.0 else 0.0
    return params_for(max(float(low), histogram.low), min(float(high), histogram.high), bits, kind)


def mse(histogram: Histogram, bits: int = BITS, kind: ActivationType = "uint8") -> QuantParams:
    """The range of least squared error, rounding and clipping together, searched one end at a time."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    used = histogram.counts > 0
    values, counts = histogram.centers[used], histogram.counts[used].astype(np.float64)
    if kind != "uint8":
        return _mse_symmetric(values, counts, max(-low, high), kind)
    shrinks = _SHRINKS if bits == BITS else _NARROW_SHRINKS

    def error(low: float, high: float) -> float:
        params = params_for(low, high, bits)
        codes = np.clip(np.rint(values / params.scale) + params.zero_point, 0, params.levels)
        return float((((codes - params.zero_point) * params.scale - values) ** 2 * counts).sum())

    best_low, best_high = low, high
    for _ in range(2):
        best_high = min((high * s for s in shrinks), key=lambda h: error(best_low, h))
        if low < 0.0:
            best_low = min((low * s for s in shrinks), key=lambda l: error(l, best_high))  # noqa: E741
    return params_for(best_low, best_high, bits)


def _mse_symmetric(
    values: NDArray[np.float64], counts: NDArray[np.float64], limit: float, kind: ActivationType
) -> QuantParams:
    """The same where both ends move together. values, counts: float64 [bins]."""
    centers = values.astype(np.float32)

    def error(params: QuantParams) -> float:
        return float(((params.simulate(centers) - values) ** 2 * counts).sum())

    return min((params_for(-limit * s, limit * s, BITS, kind) for s in _SHRINKS), key=error)


def entropy(histogram: Histogram, bits: int = BITS, kind: ActivationType = "uint8") -> QuantParams:
    """The threshold on |x| of least information loss (Migacz 2017), where zero and both signs share the levels."""
    half = len(histogram.counts) // 2
    magnitudes = histogram.counts[half:] + histogram.counts[:half][::-1]
    both = kind != "uint8" or histogram.low < 0.0 < histogram.high
    levels = 1 << (bits - 1) if both else 1 << bits
    threshold = histogram.limit * kept_bins(magnitudes, levels) / half
    return params_for(max(histogram.low, -threshold), min(histogram.high, threshold), bits, kind)


class Estimator(Protocol):
    """Parameters of `bits` bits (uint8; all 8 for the other types) for the values that a histogram has seen."""

    def __call__(self, histogram: Histogram, bits: int = BITS, kind: ActivationType = "uint8") -> QuantParams: ...


ESTIMATORS: dict[str, Estimator] = {"minmax": minmax, "percentile": percentile, "mse": mse, "entropy": entropy}
CHOICES: dict[str, tuple[str, ...]] = {"auto": ("mse", "minmax"), **{name: (name,) for name in ESTIMATORS}}
"""Values of `--estimator`: of several, each tensor gets the one of least effect on the outputs."""


def require_estimator(name: str) -> None:
    """Raises UsageError for a name that is not in `CHOICES`."""
    if name not in CHOICES:
        raise UsageError(f"no estimator of ranges is called {name!r}; {nearest(name, CHOICES, 'choose one of')}")
