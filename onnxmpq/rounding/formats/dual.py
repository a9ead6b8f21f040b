"""Integer codes with one scale per output channel and one uint4 multiplier per block: 4 to 6 bits that compute as int8.

DPQ (arXiv 2505.14638) with int8 in the place of fp8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from onnxmpq.rounding.formats.channel import FREE
from onnxmpq.rounding.scales import as_rows, dot, fit_steps, power, rows_of_blocks
from onnxmpq.rounding.types import (
    MULTIPLIER_BITS,
    SMALLEST_STEP,
    FloatArray,
    Grid,
    MultiplierArray,
    WeightFormat,
    chunks,
)

SMALLEST_BLOCK = 8
LOW_BITS_BYTES = 300
"""Bytes of nodes in the file that join codes and their low bits."""

RATIOS = np.linspace(7.0, 22.0, 31, dtype=np.float32) / np.float32(15)
"""Trial values of (largest block step of a channel) / (scale of the channel · largest multiplier); above 1 that block
is clipped."""


@dataclass(frozen=True)
class Dual(WeightFormat):
    """w ≈ scale[o] · (multiplier[o, b] · code), code of 4 to 6 bits, multiplier a uint4, the product an int8.

    bits: a code is stored as an INT4, and its other, lowest bits packed into bytes.
    block: inputs per multiplier that are asked for; `effective_block` gives those in use.
    saturation_free: the products obey `rounding.overflow.pair_limits`.
    """

    bits: int = 4
    block: int = 64
    saturation_free: bool = False

    WIDTHS: ClassVar[tuple[int, ...]] = (4, 5, 6)
    """Values of `bits`."""
    has_multipliers: ClassVar[bool] = True
    multiplied_as_int8: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bits not in self.WIDTHS:
            raise ValueError(f"{self.name}: a dual code has 4 to 6 bits, not {self.bits}")
        if self.block < 1:
            raise ValueError(f"{self.name}: a block holds at least one weight, not {self.block}")

    @property
    def name(self) -> str:
        return f"int{self.bits}_dual{self.block}{FREE if self.saturation_free else ''}"

    @property
    def may_saturate(self) -> bool:
        return True

    @property
    def without_saturation(self) -> Dual:
        return replace(self, saturation_free=True)

    @property
    def max_multiplier(self) -> int:
        """The largest multiplier whose product with any code still is an int8: 15, 7, 3 for 4, 5, 6 bits."""
        return 127 >> (self.bits - 1)

    @property
    def storage_bits(self) -> int:
        return 4

    @property
    def low_bits(self) -> int:
        return self.bits - 4

    def unfolding_bytes(self, layer: str) -> int:
        return 450 + (LOW_BITS_BYTES if self.low_bits else 0)

    def side_bits(self, channels: int, inputs: int) -> int:
        return channels * (self.scale_bits + self.blocks(inputs) * MULTIPLIER_BITS)

    def block_width(self, inputs: int) -> int:
        return effective_block(inputs, self.block)

    def fit(self, w: FloatArray, importance: FloatArray | None = None, tensor_scale: float | None = None) -> Grid:
        block = self.block_width(w.shape[1])
        rows, weighting = rows_of_blocks(w, block, importance)
        steps = fit_steps(rows, self, weighting).reshape(len(w), -1)
        return _fit_scales(rows, steps, self, weighting, block)

    def open_block(
        self, grid: Grid, block: int, target: FloatArray, importance: FloatArray, factors: FloatArray
    ) -> FloatArray:
        assert grid.multipliers is not None
        rows, weighting = as_rows(target, importance)
        ideal = fit_steps(rows, self, weighting) * factors
        multipliers, _errors = fit_multipliers(rows, ideal, grid.scales, self, weighting)
        grid.multipliers[:, block] = multipliers
        return grid.scales * multipliers.astype(np.float32)


def effective_block(inputs: int, block: int) -> int:
    """The block width that a row of `inputs` weights gets.

    The chain that onnxruntime folds multiplies [O, K / block, block] codes by [O, K / block, 1] multipliers, so the
    width must divide K: the largest divisor of `inputs` in 8..`block` if there is one, else the smallest above `block`.
    """
    narrower = range(min(block, inputs), SMALLEST_BLOCK - 1, -1)
    return next((width for width in (*narrower, *range(block + 1, inputs)) if inputs % width == 0), max(inputs, 1))


def fit_multipliers(
    rows: FloatArray, ideal: FloatArray, scales: FloatArray, weight_format: Dual, importance: FloatArray | None
) -> tuple[MultiplierArray, FloatArray]:
    """For each of rows [R, B]: the better of the two multipliers around ideal [R] / scales [R], and its error [R]."""
    below = np.clip(np.floor(ideal / scales), 1, weight_format.max_multiplier)
    above = np.minimum(below + 1, weight_format.max_multiplier)
    errors = [_rounding_errors(rows, m * scales, weight_format, importance) for m in (below, above)]
    multipliers = np.where(errors[1] < errors[0], above, below)
    return multipliers.astype(np.uint8), np.minimum(*errors)


def _fit_scales(
    rows: FloatArray, steps: FloatArray, weight_format: Dual, importance: FloatArray | None, block: int
) -> Grid:
    """One scale per channel and one integer multiplier per block that come closest to the float block steps.

    rows float32 [O·B, block]; steps float32 [O, B].
    """
    ideal = np.where(rows.any(axis=1).reshape(steps.shape), steps, np.float32(0))
    largest = ideal.max(axis=1)
    best_error = np.full(len(steps), np.inf, dtype=np.float32)
    best_scales = np.ones(len(steps), dtype=np.float32)
    best_multipliers = np.ones(steps.shape, dtype=np.uint8)
    for ratio in RATIOS * weight_format.max_multiplier:
        scales = np.where(largest > 0, np.maximum(largest / ratio, SMALLEST_STEP), np.float32(1))
        spread = np.repeat(scales, steps.shape[1])
        multipliers, errors = fit_multipliers(rows, ideal.ravel(), spread, weight_format, importance)
        error = errors.reshape(steps.shape).sum(axis=1)
        better = error < best_error
        best_error[better], best_scales[better] = error[better], scales[better]
        best_multipliers[better] = multipliers.reshape(steps.shape)[better]
    return _refit_scale(Grid(weight_format, best_scales, best_multipliers, block), rows, importance)


def _refit_scale(grid: Grid, rows: FloatArray, importance: FloatArray | None) -> Grid:
    """The least-squares scale per channel for the int8 codes that `grid` gives."""
    assert grid.multipliers is not None
    channels, blocks = grid.multipliers.shape
    steps = grid.steps.ravel()[:, None]
    codes = np.clip(np.rint(rows / steps), grid.format.low, grid.format.high)
    codes *= grid.multipliers.reshape(-1, 1)
    weighted = rows if importance is None else rows * importance
    product = dot(codes, weighted).reshape(channels, blocks).sum(axis=1)
    squares = power(codes, importance).reshape(channels, blocks).sum(axis=1)
    refit = product / np.where(squares > 0, squares, 1)
    scales = np.where(refit >= SMALLEST_STEP, refit, grid.scales)
    return Grid(grid.format, scales.astype(np.float32), grid.multipliers, grid.block)


def _rounding_errors(
    rows: FloatArray, steps: FloatArray, weight_format: Dual, importance: FloatArray | None
) -> FloatArray:
    """float32 [R]: weighted squared error of rows [R, B] rounded to codes times steps [R]."""
    errors = np.empty(len(rows), dtype=np.float32)
    for chunk in chunks(*rows.shape):
        residual = _residual(rows[chunk], steps[chunk], weight_format)
        errors[chunk] = power(residual, None if importance is None else importance[chunk])
    return errors


def _residual(rows: FloatArray, steps: FloatArray, weight_format: Dual) -> FloatArray:
    """float32 [R, B]: nearest codes times steps [R], less the rows."""
    codes = rows / steps[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, weight_format.low, weight_format.high, out=codes)
    codes *= steps[:, None]
    codes -= rows
    return codes
