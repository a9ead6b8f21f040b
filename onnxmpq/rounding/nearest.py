"""Round to nearest, with scales of least squared error (weighted by diag(H) where it is known)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.rounding.pairs import STRETCH_POWERS, PairBound, nearest_within
from onnxmpq.rounding.second_order import diagonal_of
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat


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
    part, rows = grid.of(limited), w[limited]
    weighting = None if importance is None else importance[limited]
    best, least = nearest.of(limited), np.full(len(limited), np.inf)
    enough = bound.stretches(rows, part)
    for power in (0.0, *STRETCH_POWERS):
        stretched = replace(part, scales=part.scales * np.power(enough, np.float32(power)))
        tried = nearest_within(stretched, rows, bound, weighting)
        squares = np.square(rows - tried.dequantize(), dtype=np.float64)
        error = (squares if weighting is None else squares * weighting).sum(axis=1)
        better = np.flatnonzero(error < least)
        least[better], best = error[better], best.with_channels(better, tried.of(better))
    return nearest.with_channels(limited, best)
