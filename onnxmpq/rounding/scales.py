"""Steps for the rows of a weight: search for those with the least weighted squared rounding error.

For fixed codes q the best step is the least-squares one, ⟨w, q⟩ / ⟨q, q⟩, and the error left is
‖w - step · q‖² (products weighted by the importance of each input). So every trial step is scored by the error *after*
that refit, which lets few trials cover the range.
"""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding.types import SMALLEST_STEP, FloatArray, WeightFormat, chunks

TRIALS = 30
"""Steps tried for each row."""

NARROWEST_TRIAL = np.float32(0.3)
"""The smallest of them, as a fraction of the smallest step that clips nothing."""


def fit_steps(rows: FloatArray, weight_format: WeightFormat, importance: FloatArray | None = None) -> FloatArray:
    """float32 [R]: the best step for each row of float32 [R, B]; 1 for a row of zeros.

    Negative where the format allows it and the row's largest value is positive.
    """
    steps = np.ones(len(rows), dtype=np.float32)
    for chunk in chunks(*rows.shape):
        steps[chunk] = _search_steps(rows[chunk], weight_format, None if importance is None else importance[chunk])
    return steps


def _search_steps(rows: FloatArray, weight_format: WeightFormat, importance: FloatArray | None) -> FloatArray:
    weighted = rows if importance is None else rows * importance
    trials = _trial_steps(rows, weight_format)
    steps, errors = np.empty_like(trials), np.empty_like(trials)
    for some in chunks(TRIALS, rows.size):
        codes = rows / trials[some, :, None]
        np.rint(codes, out=codes)
        np.clip(codes, weight_format.low, weight_format.high, out=codes)
        squares = power(codes, importance)
        step = steps[some] = dot(codes, weighted) / np.where(squares > 0, squares, np.float32(1))
        codes *= step[..., None]
        errors[some] = power(np.subtract(rows, codes, out=codes), importance)
    errors[~((errors < np.inf) & (np.abs(steps) >= SMALLEST_STEP))] = np.inf
    best = np.argmin(errors, axis=0), np.arange(len(rows))  # of equal ones the first
    found: FloatArray = np.where(errors[best] < np.inf, steps[best], np.float32(1))
    return found


def _trial_steps(rows: FloatArray, weight_format: WeightFormat) -> FloatArray:
    """float32 [TRIALS, R]: from (largest magnitude / largest code), the usual choice, to a fraction of what clips
    nothing.

    A row for which the format allows a negative step, and that gains from it, has negative ones.
    """
    low, high = weight_format.low, weight_format.high
    top, bottom = rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0)
    sign = np.where(weight_format.negative_scales & (top > bottom), np.float32(-1), np.float32(1))
    widest = np.maximum(top, bottom) / high
    unclipped = np.where(sign < 0, np.maximum(top / -low, bottom / high), np.maximum(top / high, bottom / -low))
    narrowest = NARROWEST_TRIAL * unclipped
    trials = widest + np.linspace(0, 1, TRIALS, dtype=np.float32)[:, None] * (narrowest - widest)
    found: FloatArray = np.where(trials < SMALLEST_STEP, np.float32(1), trials) * sign
    return found


def dot(left: FloatArray, right: FloatArray) -> FloatArray:
    """float32 [..., R]: the inner product of each row of [..., R, B] and of [R, B]."""
    products: FloatArray = np.einsum("...rk,...rk->...r", left, right)
    return products


def power(values: FloatArray, importance: FloatArray | None) -> FloatArray:
    """float32 [..., R]: the sum of importance · value² over each row of [..., R, B]."""
    return dot(values, values) if importance is None else dot(np.square(values), importance)


def rows_of_blocks(w: FloatArray, block: int, importance: FloatArray | None) -> tuple[FloatArray, FloatArray | None]:
    """w [O, K] as rows [O · ⌈K / block⌉, block], a shorter last block padded with zeros; and so its importance."""
    if importance is None:
        return _split(w, block), None
    return _split(w, block), _split(np.broadcast_to(importance, w.shape), block)


def as_rows(target: FloatArray, importance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """One block [inputs, O] as rows [O, inputs]; and the importance of its inputs for each row."""
    rows = np.ascontiguousarray(target.T)
    return rows, np.broadcast_to(importance, rows.shape)


def _split(w: FloatArray, block: int) -> FloatArray:
    padding = -w.shape[1] % block
    if padding:
        w = np.pad(w, ((0, 0), (0, padding)))
    return w.reshape(-1, block)
