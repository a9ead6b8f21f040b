"""int4 codes with one scale per block, and a power of two for the whole tensor: an int4 file that computes in E4M3FN.

DPQ (arXiv 2505.14638).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from onnxmpq.rounding.formats.fp8 import NODE_BYTES
from onnxmpq.rounding.fp8 import power_of_two_scale, round_to_fp8
from onnxmpq.rounding.scales import as_rows, fit_steps, power, rows_of_blocks
from onnxmpq.rounding.types import SMALLEST_STEP, FloatArray, Grid, QuantizedWeight, WeightFormat, chunks

TENSOR_SCALE_BYTES = 4

CAST_FACTORS = np.array([1.0, 0.9, 0.94, 0.97, 1.03, 1.06, 1.1], dtype=np.float32)
"""Trial steps, relative to the best step without the cast to fp8."""


@dataclass(frozen=True)
class Fp8Dual(WeightFormat):
    """w ≈ s · fp8(scale[o, b] · code / s), code int4, s a power of two for the whole tensor.

    block: inputs per scale; the last block of a row may be shorter.
    """

    bits: int = field(default=4, init=False)
    block: int = 64

    blocked: ClassVar[bool] = True
    has_tensor_scale: ClassVar[bool] = True
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"{self.name}: a block holds at least one weight, not {self.block}")

    @property
    def name(self) -> str:
        return f"int4_fp8_dual{self.block}"

    def size_bytes(self, weight: QuantizedWeight) -> int:
        return super().size_bytes(weight) + TENSOR_SCALE_BYTES

    def unfolding_bytes(self, layer: str) -> int:
        return 3 * (NODE_BYTES + 3 * len(layer))

    def block_width(self, inputs: int) -> int:
        return self.block

    def tensor_scale(self, w: FloatArray) -> float:
        return power_of_two_scale(w)

    def fit(self, w: FloatArray, importance: FloatArray | None = None, tensor_scale: float | None = None) -> Grid:
        rows, weighting = rows_of_blocks(w, self.block, importance)
        steps = fit_steps(rows, self, weighting)
        start = Grid(self, steps.reshape(len(w), -1), None, self.block, tensor_scale or self.tensor_scale(w))
        return replace(start, scales=fit_cast(rows, steps, start, weighting).reshape(len(w), -1))

    def open_block(
        self, grid: Grid, block: int, target: FloatArray, importance: FloatArray, factors: FloatArray
    ) -> FloatArray:
        rows, weighting = as_rows(target, importance)
        steps = fit_cast(rows, fit_steps(rows, self, weighting) * factors, grid, weighting)
        grid.scales[:, block] = steps
        return steps

    def rounded(self, grid: Grid, w: FloatArray, steps: FloatArray) -> FloatArray:
        """The code nearest to w / step, or the one beside it where that is closer after the cast."""
        wanted = super().rounded(grid, w, steps)
        aside = np.clip(wanted + np.sign(w - wanted * steps), self.low, self.high)
        closer = np.abs(w - self.value(grid, aside, steps)) < np.abs(w - self.value(grid, wanted, steps))
        return np.where(closer, aside, wanted)

    def value(self, grid: Grid, rounded: FloatArray, steps: FloatArray) -> FloatArray:
        scale, products = np.float32(grid.tensor_scale), rounded * steps
        return round_to_fp8(products / scale) * scale

    def dequantized(self, weight: QuantizedWeight) -> FloatArray:
        grid = weight.grid
        return self.value(grid, weight.codes.astype(np.float32), grid.steps_per_input(weight.codes.shape[1]))


def fit_cast(rows: FloatArray, steps: FloatArray, grid: Grid, importance: FloatArray | None) -> FloatArray:
    """float32 [R]: for each of rows [R, B] the step near steps [R] whose values are closest after the cast to fp8.

    grid: of an `Fp8Dual`. How well 3 mantissa bits hold the products of a step with -8..7 depends on the step.
    """
    best, best_error = steps.copy(), np.full(len(steps), np.inf, dtype=np.float32)
    for chunk in chunks(*rows.shape):
        here, weighting = rows[chunk], None if importance is None else importance[chunk]
        for factor in CAST_FACTORS:
            trial = np.maximum(steps[chunk] * factor, SMALLEST_STEP)
            value = grid.value(grid.rounded(here, trial[:, None]), trial[:, None])
            error = power(np.subtract(here, value, out=value), weighting)
            better = error < best_error[chunk]
            best[chunk][better], best_error[chunk][better] = trial[better], error[better]
    return best
