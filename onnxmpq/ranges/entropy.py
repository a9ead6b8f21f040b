"""Clipping by least Kullback-Leibler divergence, as in TensorRT's entropy calibrator.

S. Migacz, "8-bit inference with TensorRT", GTC 2017: of all thresholds on |x|, take the one at which the histogram,
with its tail moved into the last bin, loses least information when its bins are merged into the levels of the format.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STRIDE = 8  # bins between thresholds tried: 0.4 % of the range, an eighth of the work


def kept_bins(counts: NDArray[np.int64], levels: int, stride: int = STRIDE) -> int:
    """The number of bins of |x| (the first begins at 0) to keep: `levels`, `levels` + stride, ..., or all of them.

    The first bin counts as much as the second: zeros are represented exactly and say nothing about the range.
    """
    values = counts.astype(np.float64)
    values[0] = values[1]
    last = int(np.flatnonzero(values).max(initial=0)) + 1
    if last <= levels:
        return last
    tries: list[int] = [*range(levels, last, stride), last]
    losses = divergences(values[:last], levels, tries)
    widest_best = len(tries) - 1 - int(np.argmin(losses[::-1]))
    return tries[widest_best]


def divergences(values: NDArray[np.float64], levels: int, tries: list[int]) -> NDArray[np.float64]:
    """KL divergence in nats of the quantized histogram from the clipped one, for each number of bins kept.

    With P the kept bins, everything above added to the last, and Q their mass below the threshold spread evenly over
    the occupied bins of each level: sum P log(P / Q), both normalised. Sums over bins come from running sums, so that
    one threshold takes one pass over the levels.
    """
    total = values.sum()
    mass, used = _running(values), _running((values > 0).astype(np.float64))
    information = _running(_x_log_x(values))
    found = np.empty(len(tries))
    for place, kept in enumerate(tries):
        edges = np.ceil(np.linspace(0, kept, levels + 1)).astype(np.int64)
        level_mass, occupied = np.diff(mass[edges]), np.diff(used[edges])
        with np.errstate(divide="ignore", invalid="ignore"):
            log_q = np.where(level_mass > 0, np.log(level_mass / occupied), 0.0)
        tail, last = total - mass[kept], values[kept - 1]
        p_log_p = information[kept - 1] + _x_log_x(last + tail)
        p_log_q = level_mass @ log_q + tail * log_q[-1]
        empty = tail > 0 and last == 0  # P has mass where Q has none
        found[place] = np.inf if empty else (p_log_p - p_log_q) / total - np.log(total) + np.log(mass[kept])
    return found


def _running(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values * np.log(np.maximum(values, 1e-300)))
