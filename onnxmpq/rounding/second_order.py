"""The second-order model of a layer's output error, shared by the methods that minimise it.

For inputs x with H = E[x xᵀ], replacing W by Q changes the layer's outputs by E‖(W - Q) x‖² = tr((W - Q) H (W - Q)ᵀ): a
sum over output channels, which are therefore rounded independently and all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding.types import DoubleArray, FloatArray, QuantizedWeight

ROWS_VALUES = 1 << 21
"""Values of the output channels that are rounded at a time, which bounds memory. They follow from a weight's shape
alone: products of other shapes may have other last bits."""

FACTORED_WHOLE, FACTOR_PANEL = 4096, 512
"""Inputs from which on a matrix is factored in panels, in place: LAPACK takes three copies of it."""

DAMPING = 0.01
"""Added to the diagonal of H, as a fraction of its mean (GPTQ section 3.3): keeps H positive definite, keeps what the
samples did not excite close to its fp32 value."""


def output_error(w: FloatArray, quantized: FloatArray, hessian: FloatArray) -> DoubleArray:
    """float64 [O]: E((w - q)·x)² of each output channel, for w and quantized [O, K] and hessian [G, K, K]."""
    error = (w - quantized).reshape(len(hessian), -1, w.shape[1])
    per_channel: DoubleArray = np.einsum("gok,gok->go", error @ hessian, error, dtype=np.float64)
    return per_channel.ravel()


def damped(hessian: FloatArray) -> FloatArray:
    """H + λI, float32 [G, K, K]; the identity for a group whose inputs are always zero."""
    raised, diagonal = hessian.copy(), np.arange(hessian.shape[1])
    raised[:, diagonal, diagonal] += _ridge(hessian)[:, None]
    return raised


def corrected_target(w: FloatArray, hessian: FloatArray, cross: FloatArray) -> FloatArray:
    """The weight whose quantization error on x_q stands for the error against the fp32 layer; float32 [O, K].

    E‖W x_fp - Q x_q‖² = tr((W* - Q) H (W* - Q)ᵀ) + const with H = E[x_q x_qᵀ], C = E[x_q x_fpᵀ] and W* H = W Cᵀ.
    Damped towards W: W* = W (Cᵀ + λI) (H + λI)⁻¹. (GPTAQ, arXiv 2504.02692, minimises the same objective.)
    hessian and cross: float32 [G, K, K], undamped.
    """
    groups = w.reshape(len(hessian), -1, w.shape[1]).astype(np.float64)
    solved = []
    for rows, h, c, ridge in zip(groups, hessian, cross, _ridge(hessian), strict=True):
        wanted = _in_double(c, ridge) @ rows.T
        solved.append(np.linalg.solve(_in_double(h, ridge), wanted).T)
    return np.concatenate(solved).astype(np.float32)


def diagonal_of(hessian: FloatArray, channels: int) -> FloatArray:
    """float32 [O, K]: diag(H) of the group that each channel belongs to."""
    return np.repeat(np.diagonal(hessian, axis1=1, axis2=2), channels // len(hessian), axis=0)


def coupling(hessian: FloatArray) -> tuple[FloatArray, FloatArray]:
    """H = N diag(p) Nᵀ with N upper triangular, ones on its diagonal: float32 ([K, K], [K]).

    With errors e = w - q the output error is Σ_j p_j (e_j + Σ_{i<j} e_i N_ij)²: going through the inputs in order,
    each can make up for what the inputs before it did, and p_j is the price of what remains.
    """
    try:
        lower = _lower_factor(hessian[::-1, ::-1])
    except np.linalg.LinAlgError:
        raise ValueError("the input statistics are not positive definite") from None
    upper = lower[::-1, ::-1]
    root = np.diagonal(upper).copy()
    upper /= root
    return upper.astype(np.float32), np.square(root).astype(np.float32)


def _lower_factor(matrix: FloatArray) -> DoubleArray:
    """Cholesky factor, float64 [K, K]. Raises LinAlgError."""
    size, lower = len(matrix), matrix.astype(np.float64)
    if size <= FACTORED_WHOLE:
        return np.asarray(np.linalg.cholesky(lower), np.float64)
    for start in range(0, size, FACTOR_PANEL):
        stop = min(start + FACTOR_PANEL, size)
        lower[start:stop, start:stop] = np.linalg.cholesky(lower[start:stop, start:stop])
        if stop < size:
            solved = np.linalg.solve(lower[start:stop, start:stop], lower[stop:, start:stop].T)
            lower[stop:, start:stop] = solved.T
        for row in range(stop, size, FACTOR_PANEL):
            end = min(row + FACTOR_PANEL, size)
            lower[row:end, stop:end] -= lower[row:end, start:stop] @ lower[stop:end, start:stop].T
        lower[start:stop, stop:] = 0
    return lower


def by_rows(w: FloatArray, quantize: Callable[[slice], QuantizedWeight]) -> QuantizedWeight:
    """`quantize` of the output channels of w [O, K], as many at a time as `ROWS_VALUES` says, put together again."""
    size = max(ROWS_VALUES // max(w.shape[1], 1), 1)
    parts = [quantize(slice(start, start + size)) for start in range(0, max(len(w), 1), size)]
    return parts[0] if len(parts) == 1 else joined(parts)


def joined(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Output channels of one weight, put together."""
    return _joined(parts, np.concatenate)


def per_group(
    w: FloatArray, hessian: FloatArray, quantize: Callable[[FloatArray, FloatArray], QuantizedWeight]
) -> QuantizedWeight:
    """`quantize(channels [O/G, K], hessian [K, K])` for each group of a grouped Conv, put together again."""
    parts = [quantize(rows, h) for rows, h in zip(np.split(w, len(hessian)), hessian, strict=True)]
    return joined(parts)


def best_per_channel(w: FloatArray, hessian: FloatArray, candidates: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Each channel from the candidate with the least `output_error`, the first of equals."""
    errors = np.stack([output_error(w, c.dequantize(), hessian) for c in candidates])
    choice, channel = errors.argmin(axis=0), np.arange(len(w))
    return _joined(candidates, lambda arrays: np.stack(arrays)[choice, channel])


def _joined(
    parts: Sequence[QuantizedWeight], join: Callable[[list[NDArray[np.generic]]], NDArray[np.generic]]
) -> QuantizedWeight:
    first = parts[0]
    multipliers = [p.multipliers for p in parts if p.multipliers is not None]
    return replace(
        first,
        codes=join([p.codes for p in parts]).astype(np.int8, copy=False),
        scales=join([p.scales for p in parts]).astype(np.float32, copy=False),
        multipliers=join([*multipliers]).astype(np.uint8, copy=False) if multipliers else None,
    )


def _ridge(hessian: FloatArray) -> FloatArray:
    """float32 [G]: λ of each group."""
    mean = np.trace(hessian, axis1=1, axis2=2) / max(hessian.shape[1], 1)
    return np.where(mean > 0, DAMPING * mean, 1).astype(np.float32)


def _in_double(matrix: FloatArray, ridge: np.float32) -> DoubleArray:
    """A float64 copy of [K, K] with λ added to its diagonal."""
    raised = matrix.astype(np.float64)
    np.fill_diagonal(raised, np.diagonal(matrix) + ridge)
    return raised
