"""Round to nearest, with scales of least squared error (weighted by diag(H) where it is known)."""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding.scales import fit_grid
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat


def quantize_nearest(w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None) -> QuantizedWeight:
    """w float32 [O, K]; hessian float32 [G, K, K] or None, of which only the diagonals are used."""
    return fit_grid(w, weight_format, None if hessian is None else importance_of(hessian, len(w))).nearest(w)


def importance_of(hessian: FloatArray, channels: int) -> FloatArray:
    """float32 [O, K] (a view where there is one group): diag(H) of the group that each channel belongs to."""
    diagonals = np.diagonal(hessian, axis1=1, axis2=2)
    if len(diagonals) == 1:
        return np.broadcast_to(diagonals, (channels, diagonals.shape[1]))
    return np.repeat(diagonals, channels // len(diagonals), axis=0)
