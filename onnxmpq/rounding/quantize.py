"""The one entry point, and the table of rounding methods. A new method is one file and one line in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxmpq.rounding.descent import quantize_descent
from onnxmpq.rounding.exact import EXACT_INPUTS, quantize_exact
from onnxmpq.rounding.gptq import quantize_gptq
from onnxmpq.rounding.nearest import quantize_nearest
from onnxmpq.rounding.pairs import PairBound
from onnxmpq.rounding.second_order import corrected_target, damped
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat

RoundingMethod = Callable[[FloatArray, WeightFormat, FloatArray | None, PairBound | None], QuantizedWeight]
"""(w float32 [O, K], format, positive definite hessian float32 [G, K, K] or None, bound on pairs of int8 codes or None)
-> result, which obeys the bound; deterministic."""


def quantize_best(
    w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None, bound: PairBound | None = None
) -> QuantizedWeight:
    """The strongest method that applies: exact for depthwise kernels, else GPTQ and descent; nearest without H."""
    if hessian is None:
        return quantize_nearest(w, weight_format, None, bound)
    if w.shape[1] <= EXACT_INPUTS:
        return quantize_exact(w, weight_format, hessian, bound)
    return quantize_descent(w, weight_format, hessian, bound)


METHODS: Mapping[str, RoundingMethod] = {
    "nearest": quantize_nearest,
    "gptq": quantize_gptq,
    "descent": quantize_descent,
    "exact": quantize_exact,
    "best": quantize_best,
}


def quantize_weight(
    w: FloatArray,
    weight_format: WeightFormat,
    *,
    method: str = "nearest",
    hessian: FloatArray | None = None,
    cross: FloatArray | None = None,
    bound: PairBound | None = None,
) -> QuantizedWeight:
    """Quantize the weight of one layer.

    w: float32 [O, K].
    hessian: H = E[x xᵀ] over the layer's inputs as they will be at run time (quantized upstream), [K, K], or
        [G, K, K] for a Conv with G groups (channels o·G/O share an H). Its overall factor does not matter.
    cross: C = E[x_q x_fpᵀ], same shape: products of the inputs at run time with those of the fp32 model. With it the
        target is W x_fp while the layer sees x_q.
    bound: that pairs of the layer's int8 codes must obey; for formats whose codes are multiplied as int8.
    """
    if w.ndim != 2 or not np.isfinite(w).all():
        raise ValueError(f"a weight is a finite matrix [outputs, inputs], not {w.shape}")
    if method not in METHODS:
        raise ValueError(f"no rounding method {method!r}; there are {', '.join(METHODS)}")
    if bound is not None and not weight_format.multiplied_as_int8:
        raise ValueError(f"{weight_format.name} is not multiplied as int8, no bound applies to it")
    w = np.ascontiguousarray(w, dtype=np.float32)
    if hessian is None:
        if cross is not None:
            raise ValueError("cross products of the inputs need the hessian too")
        return METHODS[method](w, weight_format, None, bound)
    statistics = _grouped(hessian, w)
    target = w if cross is None else corrected_target(w, statistics, _grouped(cross, w))
    return METHODS[method](target, weight_format, damped(statistics), bound)


def _grouped(matrix: FloatArray, w: FloatArray) -> FloatArray:
    """[K, K] or [G, K, K] as a checked float32 [G, K, K]."""
    channels, inputs = w.shape
    grouped = np.asarray(matrix, dtype=np.float32).reshape(-1, *matrix.shape[-2:])
    if grouped.shape[1:] != (inputs, inputs) or channels % len(grouped):
        raise ValueError(f"input statistics {matrix.shape} do not fit a weight {w.shape}")
    if not np.isfinite(grouped).all():
        raise ValueError("input statistics hold NaN or infinite values")
    return grouped
