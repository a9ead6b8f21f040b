"""Second moments from few rows, with less of what is chance in them.

An average of R products x_i x_j is off by about sqrt((h_ii h_jj + h_ij²) / R), and with fewer rows than inputs H has no
full rank: weights rounded for it make up for errors along directions that other rows do not have, and do worse there
than weights rounded to nearest. In units of sqrt(h_ii h_jj), the entries off the diagonal times 1 - ρ with

    ρ = Σ (1 + r_ij²) / R / Σ r_ij²,   r_ij = h_ij / sqrt(h_ii h_jj),   sums over i ≠ j

have the least expected squared error (Ledoit and Wolf 2004; for this target and these units Schäfer and Strimmer 2005,
doi 10.2202/1544-6115.1175; variances here are those of Gaussian rows, so that nothing but H and R is needed).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
NEGLIGIBLE = 0.01
"""Shares below this change nothing: rounding adds as much to the diagonal in any case (`rounding.DAMPING`)."""


def chance_share(hessian: FloatArray, rows: int) -> float:
    """ρ in 0..1 for E[x xᵀ] float32 [K, K], averaged over so many rows. Inputs that are always 0 do not count."""
    diagonal = np.diagonal(hessian).astype(np.float64)
    seen = diagonal > 0
    count = int(seen.sum())
    weights = np.divide(1.0, diagonal, out=np.zeros_like(diagonal), where=seen)
    rows_squared = (np.square(row, dtype=np.float64) @ weights for row in hessian)  # a copy of all of it takes memory
    squares = sum(float(w * square) for w, square in zip(weights, rows_squared, strict=True))
    off = squares - count
    if rows < 1 or off <= 0.0:
        return 1.0
    return min((count * (count - 1) + off) / (rows * off), 1.0)


def less_chance(hessian: FloatArray, rows: int, cross: FloatArray | None = None) -> float:
    """Entries off the diagonals of H float32 [G, K, K], in place, times 1 - ρ of their group; and those of `cross`,
    E[x x_fpᵀ] of the same rows. The mean ρ."""
    shares = [chance_share(products, rows) for products in hessian]
    for group, share in enumerate(shares):
        if share < NEGLIGIBLE:
            continue
        for matrix in (hessian[group], *(() if cross is None else (cross[group],))):
            kept = np.diagonal(matrix).copy()
            matrix *= np.float32(1.0 - share)
            np.fill_diagonal(matrix, kept)
    return float(np.mean(shares)) if shares else 1.0
