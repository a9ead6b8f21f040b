"""Factors that move range from where it hurts to where it does not, leaving the fp32 function as it is."""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding.types import DoubleArray, FloatArray

LARGEST_FACTOR = np.float32(1e4)
"""Factors stay in 1 / this .. this: a nearly dead channel would ask for an unbounded one."""


def cross_layer_factors(first: FloatArray, second: FloatArray) -> FloatArray:
    """float32 [C], > 0: s_i = sqrt(r1_i r2_i) / r2_i for the C channels between two layers.

    first: float32 [C], r1: max|w| over the weights that produce channel i (rows of the first layer).
    second: float32 [C], r2: max|w| over the weights that consume it (columns of the second layer).
    The first layer's row and bias are divided by s, the second layer's column is multiplied by it, which equalises
    both ranges to sqrt(r1_i r2_i); the function stays the same where the activation between is positively homogeneous,
    f(s x) = s f(x), like ReLU (Nagel et al. 2019, arXiv 1906.04721, equation 11). 1 where either range is 0.
    """
    alive = (first > 0) & (second > 0)
    produced, consumed = (np.where(alive, r, 1).astype(np.float64) for r in (first, second))
    return _bounded(np.sqrt(produced / consumed))


def smoothing_factors(activations: FloatArray, weights: FloatArray, strength: float = 0.5) -> FloatArray:
    """float32 [K], > 0: s_j = max|x_j|^α / max|w_j|^(1-α) for the K inputs of a MatMul.

    activations: float32 [K], max|x_j|; weights: float32 [K], max|w_j| over all layers that read x; strength: α in 0..1.
    x_j is divided by s_j (folded into the LayerNorm or Linear before it), the weight's input j multiplied by it
    (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438, equation 4). 1 where either maximum is 0.
    """
    alive = (activations > 0) & (weights > 0)
    inputs, consumed = (np.where(alive, r, 1).astype(np.float64) for r in (activations, weights))
    return _bounded(inputs**strength / consumed ** (1 - strength))


def _bounded(factors: DoubleArray) -> FloatArray:
    return np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR).astype(np.float32)
