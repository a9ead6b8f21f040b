"""Bias correction: what the mean of a layer's inputs makes of the weight error is a constant, and goes to the bias."""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding.types import FloatArray


def bias_correction(w: FloatArray, quantized: FloatArray, mean: FloatArray) -> FloatArray:
    """float32 [O]: (W - Ŵ) E[x], to be added to the layer's bias (Nagel et al. 2019, arXiv 1906.04721, section 4.2).

    w, quantized: float32 [O, K], fp32 and dequantized weight.
    mean: float32 [K], or [G, K] for a Conv with G groups: E[x] of the inputs as they are at run time.
    """
    groups = np.atleast_2d(mean).astype(np.float64)
    error = (w - quantized).astype(np.float64).reshape(len(groups), -1, w.shape[1])
    correction: FloatArray = np.einsum("gok,gk->go", error, groups).ravel().astype(np.float32)
    return correction


def centred(hessian: FloatArray, mean: FloatArray) -> FloatArray:
    """The covariance E[x xᵀ] - E[x] E[x]ᵀ, same shape as hessian ([K, K] or [G, K, K]; mean [K] or [G, K]).

    The H to round for when `bias_correction` follows: the corrected layer is off by (W - Ŵ)(x - E[x]), so its error
    is tr((W - Ŵ) Cov (W - Ŵ)ᵀ).
    """
    wide = mean.astype(np.float64)
    return (hessian - wide[..., :, None] * wide[..., None, :]).astype(np.float32)
