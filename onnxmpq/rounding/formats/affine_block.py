"""uint4 codes with one scale and one zero point per block of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmpq.rounding import opsets
from onnxmpq.rounding.scales import as_rows, dot, power, rows_of_blocks
from onnxmpq.rounding.types import (
    SMALLEST_STEP,
    CodeArray,
    FloatArray,
    Grid,
    QuantizedWeight,
    WeightFormat,
    ZeroPointArray,
    chunks,
    unfolded,
)

NARROWEST = np.float32(0.6)
"""The narrowest range that is tried, as a fraction of the range of a block's weights and 0."""
TRIALS = 24


@dataclass(frozen=True)
class AffineBlock(WeightFormat):
    """w ≈ scale[o, b] · (code - zero point[o, b]), code and zero point uint4, `block` consecutive inputs.

    `QuantizedWeight.codes` are code - zero point, -15 to 15; those of a block fit uint4 with the zero point that
    `zero_points` finds. 8 bits gain nothing: with a scale per block they lose less than kernels do.
    """

    bits: int = field(default=4, init=False)
    block: int = 32

    blocked: ClassVar[bool] = True
    shifted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"{self.name}: a block holds at least one weight, not {self.block}")

    @property
    def name(self) -> str:
        return f"uint4_block{self.block}"

    @property
    def low(self) -> int:
        return -self.high

    @property
    def high(self) -> int:
        return (1 << self.bits) - 1

    @property
    def lowest_opset(self) -> int:
        return opsets.INT4

    def block_width(self, inputs: int) -> int:
        return self.block

    def size_bytes(self, weight: QuantizedWeight) -> int:
        """Zero points of a row fill up its last byte."""
        rows, blocks = weight.scales.shape
        packed: int = rows * -(-blocks * self.bits // 8)
        return super().size_bytes(weight) + packed

    def side_bits(self, channels: int, inputs: int) -> int:
        return super().side_bits(channels, inputs) + channels * self.blocks(inputs) * self.bits

    def fit(self, w: FloatArray, importance: FloatArray | None = None, tensor_scale: float | None = None) -> Grid:
        rows, weighting = rows_of_blocks(w, self.block, importance)
        steps, zeros = self._fitted(rows, weighting)
        shape = len(w), -1
        return Grid(self, steps.reshape(shape), None, self.block, zero_points=zeros.reshape(shape))

    def open_block(
        self, grid: Grid, block: int, target: FloatArray, importance: FloatArray, factors: FloatArray
    ) -> FloatArray:
        assert grid.zero_points is not None
        rows, weighting = as_rows(target, importance)
        steps, zeros = self._fitted(rows, weighting)
        grid.scales[:, block], grid.zero_points[:, block] = steps * factors, zeros
        return grid.scales[:, block]

    def rounded(self, grid: Grid, w: FloatArray, steps: FloatArray) -> FloatArray:
        assert grid.zero_points is not None
        zeros = np.repeat(grid.zero_points, grid.block, axis=1)[:, : w.shape[1]].astype(np.float32)
        codes: FloatArray = np.clip(np.rint(w / steps), -zeros, self.high - zeros)
        return codes

    def zero_points(self, codes: CodeArray, block: int) -> ZeroPointArray:
        """The smallest that lets all codes of a block fit uint4, uint8 [O, B]; codes int8 [O, K]."""
        starts = np.arange(0, codes.shape[1], block)
        return np.maximum(-np.minimum.reduceat(codes, starts, axis=1), 0).astype(np.uint8)

    def dequantized(self, weight: QuantizedWeight) -> FloatArray:
        return unfolded(weight)

    def check_values(self, weight: QuantizedWeight) -> None:
        super().check_values(weight)
        if not weight.codes.size:
            return
        starts = np.arange(0, weight.codes.shape[1], weight.block)
        largest = np.maximum.reduceat(weight.codes, starts, axis=1).astype(np.int16)
        if np.any(np.maximum(largest, 0) + self.zero_points(weight.codes, weight.block) > self.high):
            raise ValueError(f"codes: those of a block are more than {self.high} apart")

    def _fitted(self, rows: FloatArray, importance: FloatArray | None) -> tuple[FloatArray, ZeroPointArray]:
        """Of each row of float32 [R, B]: step and zero point of the least weighted squared error; steps float32 [R]."""
        steps, zeros = np.ones(len(rows), np.float32), np.zeros(len(rows), np.uint8)
        for chunk in chunks(*rows.shape):
            steps[chunk], zeros[chunk] = self._search(rows[chunk], None if importance is None else importance[chunk])
        return steps, zeros

    def _search(self, rows: FloatArray, importance: FloatArray | None) -> tuple[FloatArray, ZeroPointArray]:
        weighted = rows if importance is None else rows * importance
        best, zeros = np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32)
        least = np.full(len(rows), np.inf, np.float32)
        for trial, zero in self._trials(rows):
            codes = np.clip(np.rint(rows / trial[:, None]), -zero[:, None], self.high - zero[:, None])
            squares = power(codes, importance)
            step = dot(codes, weighted) / np.where(squares > 0, squares, np.float32(1))
            error = power(rows - codes * step[:, None], importance)
            better = (error < least) & (step >= SMALLEST_STEP)
            least[better], best[better], zeros[better] = error[better], step[better], zero[better]
        return best, zeros.astype(np.uint8)

    def _trials(self, rows: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Steps and zero points, float32 [R] each: of the whole range, and of narrower ones at both ends."""
        top, bottom = rows.max(axis=1, initial=0), rows.min(axis=1, initial=0)
        for share in np.linspace(1, NARROWEST, TRIALS, dtype=np.float32):
            step = (top - bottom) * share / np.float32(self.high)
            step = np.where(step < SMALLEST_STEP, np.float32(1), step)
            yield step, np.clip(np.rint(-bottom * share / step), 0, self.high).astype(np.float32)
