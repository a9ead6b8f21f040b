"""Scales for codes that are fixed: least squares on the layer's outputs.

With q = Σ_b s_b c_b, where c_b holds the (int8) codes of block b and zeros elsewhere, (w - q) H (w - q)ᵀ is quadratic
in the scales s of a channel and least where A s = y, with A_bd = c_b H c_dᵀ and y_b = c_b H wᵀ.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.rounding.second_order import best_per_channel
from onnxmpq.rounding.types import SMALLEST_STEP, DoubleArray, FloatArray, QuantizedWeight

RIDGE = 1e-6
"""Pull towards the old scales, as a fraction of the mean of diag(A): blocks of zero codes leave A singular."""

ENTRIES_PER_CHUNK = 1 << 22
"""Entries of A that are held at once."""


def refit_scales(w: FloatArray, quantized: QuantizedWeight, hessian: FloatArray) -> QuantizedWeight:
    """Same codes and multipliers, better scales; the error of no channel grows.

    w float32 [O, K]; hessian float32 [G, K, K].
    """
    codes = quantized.int8_codes().astype(np.float32)
    old = quantized.scales.reshape(len(w), -1)
    block = quantized.block if quantized.format.blocked else w.shape[1]
    per_group = (len(hessian), -1, w.shape[1])
    codes, error = codes.reshape(per_group), (w - quantized.dequantize()).reshape(per_group)
    chunk = max(1, ENTRIES_PER_CHUNK // (len(hessian) * old.shape[1] ** 2))
    corrections = [
        _corrections(codes[:, start : start + chunk], error[:, start : start + chunk], hessian, block)
        for start in range(0, codes.shape[1], chunk)
    ]
    new = (old + np.concatenate(corrections, axis=1).reshape(old.shape)).astype(np.float32)
    usable = np.abs(new) >= SMALLEST_STEP if quantized.format.negative_scales else new >= SMALLEST_STEP
    scales = np.where(usable.all(axis=1, keepdims=True), new, old).reshape(quantized.scales.shape)
    refitted = replace(quantized, scales=quantized.format.storable(scales))
    return best_per_channel(w, hessian, [quantized, refitted])


def _corrections(codes: FloatArray, error: FloatArray, hessian: FloatArray, block: int) -> DoubleArray:
    """float64 [G, O/G, B]: what to add to the scales, from codes and error (w - q), both float32 [G, O/G, K]."""
    starts = np.arange(0, codes.shape[2], block)
    right_side = np.add.reduceat(codes * (error @ hessian), starts, axis=2, dtype=np.float64)
    matrix = np.empty((*right_side.shape, len(starts)), dtype=np.float64)
    for b, start in enumerate(starts):
        part = slice(start, start + block)
        through_block = codes[:, :, part] @ hessian[:, part]
        matrix[:, :, b] = np.add.reduceat(codes * through_block, starts, axis=2, dtype=np.float64)
    diagonal = np.einsum("gobb->gob", matrix)  # a writable view
    mean = diagonal.mean(axis=2, keepdims=True)
    diagonal += np.where(mean > 0, RIDGE * mean, 1)
    solved: DoubleArray = np.linalg.solve(matrix, right_side[..., None])[..., 0]
    return solved
