"""The one entry point, and the table of rounding methods. A new method is one file and one line in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxmpq.rounding.nearest import quantize_nearest
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat

RoundingMethod = Callable[[FloatArray, WeightFormat, FloatArray | None], QuantizedWeight]
"""(w float32 [O, K], format, positive definite hessian float32 [G, K, K] or None) -> result; deterministic."""

METHODS: Mapping[str, RoundingMethod] = {
    "nearest": quantize_nearest,
}

DAMPING = 0.01
"""Added to the diagonal of H, as a fraction of its mean (GPTQ section 3.3): keeps H positive definite, keeps what the
samples did not excite close to its fp32 value."""


def quantize_weight(
    w: FloatArray,
    weight_format: WeightFormat,
    *,
    method: str = "nearest",
    hessian: FloatArray | None = None,
    cross: FloatArray | None = None,
) -> QuantizedWeight:
    """Quantize the weight of one layer.

    w: float32 [O, K].
    hessian: H = E[x xᵀ] over the layer's inputs as they will be at run time (quantized upstream), [K, K], or
        [G, K, K] for a Conv with G groups (channels o·G/O share an H). Its overall factor does not matter.
    cross: C = E[x_q x_fpᵀ], same shape: products of the inputs at run time with those of the fp32 model. With it the
        target is W x_fp while the layer sees x_q.
    """
    if w.ndim != 2 or not np.isfinite(w).all():
        raise ValueError(f"a weight is a finite matrix [outputs, inputs], not {w.shape}")
    if method not in METHODS:
        raise ValueError(f"no rounding method {method!r}; there are {', '.join(METHODS)}")
    w = np.ascontiguousarray(w, dtype=np.float32)
    damped = None if hessian is None else _damped(_grouped(hessian, w))
    return METHODS[method](w, weight_format, damped)


def _grouped(matrix: FloatArray, w: FloatArray) -> FloatArray:
    """[K, K] or [G, K, K] as a checked float32 [G, K, K]."""
    channels, inputs = w.shape
    grouped = np.asarray(matrix, dtype=np.float32).reshape(-1, *matrix.shape[-2:])
    if grouped.shape[1:] != (inputs, inputs) or channels % len(grouped):
        raise ValueError(f"input statistics {matrix.shape} do not fit a weight {w.shape}")
    if not np.isfinite(grouped).all():
        raise ValueError("input statistics hold NaN or infinite values")
    return grouped


def _damped(hessian: FloatArray) -> FloatArray:
    """H + λI, float32 [G, K, K]; the identity for a group whose inputs are always zero."""
    mean = np.trace(hessian, axis1=1, axis2=2) / max(hessian.shape[1], 1)
    ridge = np.where(mean > 0, DAMPING * mean, 1).astype(np.float32)
    return hessian + ridge[:, None, None] * np.eye(hessian.shape[1], dtype=np.float32)
