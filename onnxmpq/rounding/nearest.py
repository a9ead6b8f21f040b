"""Round to nearest, with scales of least squared error (weighted by diag(H) where it is known)."""

from __future__ import annotations

from onnxmpq.rounding.scales import fit_grid
from onnxmpq.rounding.second_order import diagonal_of
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat


def quantize_nearest(w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None) -> QuantizedWeight:
    """w float32 [O, K]; hessian float32 [G, K, K] or None, of which only the diagonals are used."""
    return fit_grid(w, weight_format, None if hessian is None else diagonal_of(hessian, len(w))).nearest(w)
