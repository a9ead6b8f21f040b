"""Round to nearest, with scales of least squared error (weighted by diag(H) where it is known)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.rounding.pairs import STRETCH_POWERS, PairBound, codes_within, pairs_near
from onnxmpq.rounding.second_order import diagonal_of, joined
from onnxmpq.rounding.types import FloatArray, Grid, QuantizedWeight, WeightFormat, chunks


def quantize_nearest(
    w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None, bound: PairBound | None = None
) -> QuantizedWeight:
    """w float32 [O, K]; hessian float32 [G, K, K] or None, of which only the diagonals are used."""
    importance = None if hessian is None else diagonal_of(hessian, len(w))
    grid = weight_format.fit(w, importance)
    nearest = grid.nearest(w)
    if bound is None:
        return nearest
    limited = np.flatnonzero(~bound.obeyed(nearest.int8_codes()))
    if not len(limited):
        return nearest
    parts = [
        _within(w[rows], grid.of(rows), bound, None if importance is None else importance[rows])
        for rows in (limited[some] for some in chunks(len(limited), w.shape[1]))
    ]
    return nearest.with_channels(limited, joined(parts))


def _within(w: FloatArray, grid: Grid, bound: PairBound, importance: FloatArray | None) -> QuantizedWeight:
    """A few channels w [O, K] within the bound, each with the scale that loses least."""
    enough, near, best = bound.stretches(w, grid), pairs_near(grid, w, bound), grid.nearest(w)
    least = np.full(len(w), np.inf)
    for power in (0.0, *STRETCH_POWERS):
        stretched = replace(grid, scales=grid.scales * np.power(enough, np.float32(power)))
        tried = stretched.with_codes(codes_within(stretched, w, bound, importance, near))
        squares = np.square(w - tried.dequantize(), dtype=np.float64)
        error = (squares if importance is None else squares * importance).sum(axis=1)
        better = np.flatnonzero(error < least)
        least[better], best = error[better], best.with_channels(better, tried.of(better))
    return best
