"""From a histogram to uint8 parameters: one estimator per entry of `ESTIMATORS`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmpq.ranges.entropy import kept_bins
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.ranges.params import LEVELS, QuantParams, params_for

_SHRINKS = np.linspace(1.0, 0.3, 36)


def minmax(histogram: Histogram) -> QuantParams:
    """The observed minimum and maximum."""
    return params_for(histogram.low, histogram.high)


def percentile(histogram: Histogram, share: float = 0.9999) -> QuantParams:
    """Drops the outermost (1 - share) of the values, half on each side where there are both signs."""
    cumulated = np.cumsum(histogram.counts) / max(int(histogram.counts.sum()), 1)
    centers, tail = histogram.centers, 1.0 - share
    both = histogram.low < 0.0 < histogram.high
    cut = tail / 2 if both else tail
    low = centers[int(np.searchsorted(cumulated, cut))] if histogram.low < 0.0 else 0.0
    high = centers[min(int(np.searchsorted(cumulated, 1.0 - cut)), len(centers) - 1)] if histogram.high > 0.0 else 0.0
    return params_for(max(float(low), histogram.low), min(float(high), histogram.high))


def mse(histogram: Histogram) -> QuantParams:
    """The range of least squared error, rounding and clipping together, searched one end at a time."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    used = histogram.counts > 0
    values, counts = histogram.centers[used], histogram.counts[used].astype(np.float64)

    def error(low: float, high: float) -> float:
        params = params_for(low, high)
        codes = np.clip(np.rint(values / params.scale) + params.zero_point, 0, LEVELS)
        return float((((codes - params.zero_point) * params.scale - values) ** 2 * counts).sum())

    best_low, best_high = low, high
    for _ in range(2):
        best_high = min((high * s for s in _SHRINKS), key=lambda h: error(best_low, h))
        if low < 0.0:
            best_low = min((low * s for s in _SHRINKS), key=lambda l: error(l, best_high))  # noqa: E741
    return params_for(best_low, best_high)


def entropy(histogram: Histogram) -> QuantParams:
    """The threshold on |x| of least information loss (Migacz 2017), where zero and both signs share the levels."""
    half = len(histogram.counts) // 2
    magnitudes = histogram.counts[half:] + histogram.counts[:half][::-1]
    levels = (LEVELS + 1) // 2 if histogram.low < 0.0 < histogram.high else LEVELS + 1
    threshold = histogram.limit * kept_bins(magnitudes, levels) / half
    return params_for(max(histogram.low, -threshold), min(histogram.high, threshold))


Estimator = Callable[[Histogram], QuantParams]
ESTIMATORS: dict[str, Estimator] = {"minmax": minmax, "percentile": percentile, "mse": mse, "entropy": entropy}
