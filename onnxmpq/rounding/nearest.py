"""Round to nearest, with scales of least squared error (weighted by diag(H) where it is known)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.rounding.pairs import PairBound, nearest_within
from onnxmpq.rounding.scales import fit_grid
from onnxmpq.rounding.second_order import diagonal_of
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat

STRETCHES = np.array([1.0, 1.06, 1.12, 1.2, 1.3, 1.4, 1.5, 1.65, 1.8, 2.0], dtype=np.float32)
"""Under a bound on pairs: factors tried on the scales; each channel gets the one of least error."""


def quantize_nearest(
    w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None, bound: PairBound | None = None
) -> QuantizedWeight:
    """w float32 [O, K]; hessian float32 [G, K, K] or None, of which only the diagonals are used."""
    importance = None if hessian is None else diagonal_of(hessian, len(w))
    grid = fit_grid(w, weight_format, importance)
    nearest = grid.nearest(w)
    if bound is None:
        return nearest
    bent = np.flatnonzero(~bound.obeyed(nearest.int8_codes()))
    if not len(bent):
        return nearest
    part, rows = grid.of(bent), w[bent]
    weighting = None if importance is None else importance[bent]
    best, least = nearest.of(bent), np.full(len(bent), np.inf)
    for stretch in STRETCHES:
        tried = nearest_within(replace(part, scales=part.scales * stretch), rows, bound, weighting)
        squares = np.square(rows - tried.dequantize(), dtype=np.float64)
        error = (squares if weighting is None else squares * weighting).sum(axis=1)
        better = np.flatnonzero(error < least)
        least[better], best = error[better], best.with_channels(better, tried.of(better))
    return nearest.with_channels(bent, best)
