"""Scales and multipliers for a weight: search for the grid with the least weighted squared rounding error.

For fixed codes q the best step is the least-squares one, ⟨w, q⟩ / ⟨q, q⟩, and the error left is
‖w - step · q‖² (products weighted by the importance of each input). So every trial step is scored by the error *after*
that refit, which lets few trials cover the range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxmpq.rounding.fp8 import E4M3FN_LARGEST, power_of_two_scale
from onnxmpq.rounding.types import SMALLEST_STEP, FloatArray, Grid, MultiplierArray, WeightFormat

TRIALS = 30
"""Steps tried for each row."""

NARROWEST_TRIAL = np.float32(0.3)
"""The smallest of them, as a fraction of the smallest step that clips nothing."""

DUAL_RATIOS = np.linspace(7.0, 22.0, 31, dtype=np.float32) / np.float32(15)
"""Trial values of (largest block step of a channel) / (scale of the channel · largest multiplier); above 1 that block
is clipped."""

CAST_FACTORS = np.array([1.0, 0.9, 0.94, 0.97, 1.03, 1.06, 1.1], dtype=np.float32)
"""Trial steps of int4 codes that unfold to fp8, relative to the best step without that cast."""

ELEMENTS_PER_CHUNK = 1 << 16
"""Rows are searched in chunks that stay in the processor's cache."""


def fit_grid(
    w: FloatArray,
    weight_format: WeightFormat,
    importance: FloatArray | None = None,
    tensor_scale: float | None = None,
) -> Grid:
    """The grid of `weight_format` for w float32 [O, K].

    importance: float32 [O, K] or [K], > 0: weight of each squared error, usually diag(E[x xᵀ]); None for all ones.
    tensor_scale: of "fp8_dual", where w is only a part of the tensor.
    """
    channels, inputs = w.shape
    block = weight_format.block_width(inputs)
    if weight_format.kind == "fp8":
        return Grid(weight_format, _fp8_scales(w), None, block)
    rows = _rows_of_blocks(w, block)
    weighting = None if importance is None else _rows_of_blocks(np.broadcast_to(importance, w.shape), block)
    steps = fit_steps(rows, weight_format, weighting).reshape(channels, -1)
    if weight_format.kind == "fp8_dual":
        start = Grid(weight_format, steps, None, block, tensor_scale or power_of_two_scale(w))
        return replace(start, scales=fit_cast(rows, steps.ravel(), start, weighting).reshape(channels, -1))
    if weight_format.kind == "block":
        return Grid(weight_format, weight_format.storable(steps), None, block)
    if weight_format.kind == "channel":
        return Grid(weight_format, steps[:, 0], None, block)
    return _fit_dual(rows, steps, weight_format, weighting, block)


def _fp8_scales(w: FloatArray) -> FloatArray:
    """float32 [O]: the scale that puts a channel's largest weight on E4M3FN's largest value; 1 for zeros."""
    largest = np.abs(w).max(axis=1, initial=0)
    return np.where(largest > 0, np.maximum(largest / E4M3FN_LARGEST, SMALLEST_STEP), np.float32(1))


def fit_cast(rows: FloatArray, steps: FloatArray, grid: Grid, importance: FloatArray | None) -> FloatArray:
    """float32 [R]: for each of rows [R, B] the step near steps [R] whose values are closest after the cast to fp8.

    grid: of kind "fp8_dual". How well 3 mantissa bits hold the products of a step with -8..7 depends on the step.
    """
    best, best_error = steps.copy(), np.full(len(steps), np.inf, dtype=np.float32)
    for chunk in _chunks(*rows.shape):
        here, weighting = rows[chunk], None if importance is None else importance[chunk]
        for factor in CAST_FACTORS:
            trial = np.maximum(steps[chunk] * factor, SMALLEST_STEP)
            value = grid.value(grid.rounded(here, trial[:, None]), trial[:, None])
            error = _power(np.subtract(here, value, out=value), weighting)
            better = error < best_error[chunk]
            best[chunk][better], best_error[chunk][better] = trial[better], error[better]
    return best


def fit_steps(rows: FloatArray, weight_format: WeightFormat, importance: FloatArray | None = None) -> FloatArray:
    """float32 [R]: the best step for each row of float32 [R, B]; 1 for a row of zeros.

    Negative where the format allows it and the row's largest value is positive.
    """
    steps = np.ones(len(rows), dtype=np.float32)
    for chunk in _chunks(*rows.shape):
        steps[chunk] = _search_steps(rows[chunk], weight_format, None if importance is None else importance[chunk])
    return steps


def _search_steps(rows: FloatArray, weight_format: WeightFormat, importance: FloatArray | None) -> FloatArray:
    weighted = rows if importance is None else rows * importance
    best_step = np.ones(len(rows), dtype=np.float32)
    best_error = np.full(len(rows), np.inf, dtype=np.float32)
    for trial in _trial_steps(rows, weight_format):
        codes = rows / trial[:, None]
        np.rint(codes, out=codes)
        np.clip(codes, weight_format.low, weight_format.high, out=codes)
        power = _power(codes, importance)
        step = _dot(codes, weighted) / np.where(power > 0, power, np.float32(1))
        codes *= step[:, None]
        error = _power(np.subtract(rows, codes, out=codes), importance)
        better = (error < best_error) & (np.abs(step) >= SMALLEST_STEP)
        best_error[better], best_step[better] = error[better], step[better]
    return best_step


def _trial_steps(rows: FloatArray, weight_format: WeightFormat) -> Iterator[FloatArray]:
    """float32 [R] each: from (largest magnitude / largest code), the usual choice, to a fraction of what clips nothing.

    A row for which the format allows a negative step, and that gains from it, has negative ones.
    """
    low, high = weight_format.low, weight_format.high
    top, bottom = rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0)
    sign = np.where(weight_format.negative_scales & (top > bottom), np.float32(-1), np.float32(1))
    widest = np.maximum(top, bottom) / high
    unclipped = np.where(sign < 0, np.maximum(top / -low, bottom / high), np.maximum(top / high, bottom / -low))
    narrowest = NARROWEST_TRIAL * unclipped
    for part in np.linspace(0, 1, TRIALS, dtype=np.float32):
        trial = widest + part * (narrowest - widest)
        yield np.where(trial < SMALLEST_STEP, np.float32(1), trial) * sign


def fit_multipliers(
    rows: FloatArray, ideal: FloatArray, scales: FloatArray, weight_format: WeightFormat, importance: FloatArray | None
) -> tuple[MultiplierArray, FloatArray]:
    """For each of rows [R, B]: the better of the two multipliers around ideal [R] / scales [R], and its error [R]."""
    below = np.clip(np.floor(ideal / scales), 1, weight_format.max_multiplier)
    above = np.minimum(below + 1, weight_format.max_multiplier)
    errors = [_rounding_errors(rows, m * scales, weight_format, importance) for m in (below, above)]
    multipliers = np.where(errors[1] < errors[0], above, below)
    return multipliers.astype(np.uint8), np.minimum(*errors)


def _fit_dual(
    rows: FloatArray, steps: FloatArray, weight_format: WeightFormat, importance: FloatArray | None, block: int
) -> Grid:
    """One scale per channel and one integer multiplier per block that come closest to the float block steps.

    rows float32 [O·B, block]; steps float32 [O, B].
    """
    ideal = np.where(rows.any(axis=1).reshape(steps.shape), steps, np.float32(0))
    largest = ideal.max(axis=1)
    best_error = np.full(len(steps), np.inf, dtype=np.float32)
    best_scales = np.ones(len(steps), dtype=np.float32)
    best_multipliers = np.ones(steps.shape, dtype=np.uint8)
    for ratio in DUAL_RATIOS * weight_format.max_multiplier:
        scales = np.where(largest > 0, np.maximum(largest / ratio, SMALLEST_STEP), np.float32(1))
        spread = np.repeat(scales, steps.shape[1])
        multipliers, errors = fit_multipliers(rows, ideal.ravel(), spread, weight_format, importance)
        error = errors.reshape(steps.shape).sum(axis=1)
        better = error < best_error
        best_error[better], best_scales[better] = error[better], scales[better]
        best_multipliers[better] = multipliers.reshape(steps.shape)[better]
    return _refit_dual_scale(Grid(weight_format, best_scales, best_multipliers, block), rows, importance)


def _refit_dual_scale(grid: Grid, rows: FloatArray, importance: FloatArray | None) -> Grid:
    """The least-squares scale per channel for the int8 codes that `grid` gives."""
    assert grid.multipliers is not None
    channels, blocks = grid.multipliers.shape
    steps = grid.steps.ravel()[:, None]
    codes = np.clip(np.rint(rows / steps), grid.format.low, grid.format.high)
    codes *= grid.multipliers.reshape(-1, 1)
    weighted = rows if importance is None else rows * importance
    product = _dot(codes, weighted).reshape(channels, blocks).sum(axis=1)
    power = _power(codes, importance).reshape(channels, blocks).sum(axis=1)
    refit = product / np.where(power > 0, power, 1)
    scales = np.where(refit >= SMALLEST_STEP, refit, grid.scales)
    return Grid(grid.format, scales.astype(np.float32), grid.multipliers, grid.block)


def _rounding_errors(
    rows: FloatArray, steps: FloatArray, weight_format: WeightFormat, importance: FloatArray | None
) -> FloatArray:
    """float32 [R]: weighted squared error of rows [R, B] rounded to codes times steps [R]."""
    errors = np.empty(len(rows), dtype=np.float32)
    for chunk in _chunks(*rows.shape):
        residual = _residual(rows[chunk], steps[chunk], weight_format)
        errors[chunk] = _power(residual, None if importance is None else importance[chunk])
    return errors


def _residual(rows: FloatArray, steps: FloatArray, weight_format: WeightFormat) -> FloatArray:
    """float32 [R, B]: nearest codes times steps [R], less the rows."""
    codes = rows / steps[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, weight_format.low, weight_format.high, out=codes)
    codes *= steps[:, None]
    codes -= rows
    return codes


def _dot(left: FloatArray, right: FloatArray) -> FloatArray:
    """float32 [R]: the inner product of each row of two [R, B]."""
    products: FloatArray = np.einsum("rk,rk->r", left, right)
    return products


def _power(values: FloatArray, importance: FloatArray | None) -> FloatArray:
    """float32 [R]: the sum of importance · value² over each row of [R, B]."""
    return _dot(values, values) if importance is None else _dot(np.square(values), importance)


def _rows_of_blocks(w: FloatArray, block: int) -> FloatArray:
    """w [O, K] as [O · ⌈K / block⌉, block], a shorter last block padded with zeros."""
    padding = -w.shape[1] % block
    if padding:
        w = np.pad(w, ((0, 0), (0, padding)))
    return w.reshape(-1, block)


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, ELEMENTS_PER_CHUNK // max(columns, 1))
    return (slice(start, start + size) for start in range(0, rows, size))
