"""Streaming histograms: bounded memory per tensor, whatever the number of samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 4096
_NEGLIGIBLE = 1e-30  # counts as zero: bins that narrow would overflow float32
_MOST = 2.0**62  # values in all; their sum is in 64 bits


class Histogram:
    """Counts of a tensor's values over [-limit, limit] in 4096 equal bins; the limit doubles as values require.

    Doubling merges neighbouring bins exactly, so the result does not depend on the order of the batches up to the
    resolution of one bin. Also keeps the exact minimum and maximum. NaN and infinity are not counted; `unbounded` tells
    that there were some.
    """

    def __init__(self) -> None:
        self.unbounded = False
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.low, self.high = np.inf, -np.inf

    @classmethod
    def of(
        cls, counts: NDArray[np.int64], limit: float, low: float, high: float, *, unbounded: bool = False
    ) -> Histogram:
        """One that was kept: int64 [BINS] counts over [-limit, limit], exact minimum and maximum.

        These are infinity and minus infinity where nothing was counted. Raises ValueError for one that no values make.
        """
        reach, any_counted = max(limit, _NEGLIGIBLE), bool(np.any(counts))
        inside = -reach <= low <= high <= reach if any_counted else (low, high) == (np.inf, -np.inf)
        plausible = np.shape(counts) == (BINS,) and not np.less(counts, 0).any() and 0 <= limit < np.inf
        if not inside or not plausible or np.sum(counts, dtype=np.float64) > _MOST:
            raise ValueError("impossible histogram")
        histogram = cls()
        histogram.unbounded = unbounded
        histogram.counts, histogram.limit, histogram.low, histogram.high = counts, limit, low, high
        return histogram

    def add(self, values: NDArray[np.float32]) -> None:
        """Count one batch of any shape."""
        if not (mask := np.isfinite(values)).all():
            self.unbounded, values = True, values[mask]
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        reach = max(-low, high)
        if self.limit == 0.0:
            if reach < _NEGLIGIBLE:
                self.counts[BINS // 2] += values.size
                return
            self.limit = float(2.0 ** np.ceil(np.log2(reach)))
        while reach > self.limit:
            self._double()
        precise = np.float32 if self.limit < 2.0**127 else np.float64  # in which the sum does not overflow
        scaled = (values.ravel() + precise(self.limit)) * precise(BINS / (2 * self.limit))
        bins = np.clip(scaled.astype(np.int32), 0, BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def _double(self) -> None:
        merged = np.zeros_like(self.counts)
        quarter = BINS // 4
        merged[quarter : 3 * quarter] = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts, self.limit = merged, self.limit * 2

    def share_beyond(self, low: float, high: float) -> float:
        """Share of the values that lie outside [low, high], up to the resolution of one bin."""
        centers = self.centers
        inside = int(self.counts[(centers >= low) & (centers <= high)].sum())
        total = int(self.counts.sum())
        return 1.0 - inside / total if total and (self.low < low or self.high > high) else 0.0

    @property
    def centers(self) -> NDArray[np.float64]:
        """Middle of every bin, float64 [BINS]."""
        width = 2 * self.limit / BINS
        return np.asarray(-self.limit + width * (np.arange(BINS) + 0.5), dtype=np.float64)
