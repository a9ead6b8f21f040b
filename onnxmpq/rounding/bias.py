"""Bias correction: what the mean of a layer's inputs makes of the weight error is a constant, and goes to the bias.

Means are float32 [K], or [G, K] for a Conv with G groups: E[x] of the layer's inputs as they are at run time. Where
the inputs of the fp32 layer had another mean, that one is `mean_fp`.
"""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding.types import DoubleArray, FloatArray


def bias_correction(
    w: FloatArray, quantized: FloatArray, mean: FloatArray, mean_fp: FloatArray | None = None
) -> FloatArray:
    """float32 [O]: W E[x_fp] - Ŵ E[x], to be added to the layer's bias.

    (W - Ŵ) E[x] where both means are the same (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
    w, quantized: float32 [O, K], fp32 and dequantized weight.
    """
    wanted, got = _mean_outputs(w, mean if mean_fp is None else mean_fp), _mean_outputs(quantized, mean)
    return (wanted - got).astype(np.float32)


def centred(products: FloatArray, mean: FloatArray, mean_fp: FloatArray | None = None) -> FloatArray:
    """E[x xᵀ] - E[x] E[x]ᵀ, or with `mean_fp` E[x x_fpᵀ] - E[x] E[x_fp]ᵀ; float32, [K, K] or [G, K, K] as given.

    The statistics to round for when `bias_correction` follows: the corrected layer is off by (W - Ŵ)(x - E[x]), so its
    error is tr((W - Ŵ) Cov (W - Ŵ)ᵀ).
    """
    left, right = mean.astype(np.float64), (mean if mean_fp is None else mean_fp).astype(np.float64)
    return (products - left[..., :, None] * right[..., None, :]).astype(np.float32)


def _mean_outputs(w: FloatArray, mean: FloatArray) -> DoubleArray:
    """float64 [O]: W E[x], group by group."""
    groups = np.atleast_2d(mean).astype(np.float64)
    outputs: DoubleArray = np.einsum("gok,gk->go", w.reshape(len(groups), -1, w.shape[1]), groups)
    return outputs.ravel()
