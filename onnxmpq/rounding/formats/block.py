"""Integer codes with one scale per block of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxmpq.rounding import opsets
from onnxmpq.rounding.scales import as_rows, fit_steps, rows_of_blocks
from onnxmpq.rounding.types import FloatArray, Grid, QuantizedWeight, ScaleType, WeightFormat, unfolded

SMALLEST_FLOAT16 = np.float32(2**-14)
"""The smallest normal float16: a step below it would lose its own precision."""
LARGEST_FLOAT16 = np.float32(65504)


@dataclass(frozen=True)
class PerBlock(WeightFormat):
    """w ≈ scale[o, b] · code, one scale per `block` consecutive inputs.

    Where K is no multiple of `block`, the last block of a row is shorter (ONNX DequantizeLinear: ⌈K / block⌉ scales).

    negative_scales: a negative scale turns the longer end of the code range (-2^(bits-1)) to the side where the block's
        largest weight is. onnxruntime accepts it, TensorRT wants positive scales.
    scale_type: with float16 the weight itself is float16 when it is unfolded, for runtimes that compute in float16.
    """

    block: int = 32
    negative_scales: bool = True
    scale_type: ScaleType = "float32"

    blocked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1:
            raise ValueError(f"{self.name}: a block holds at least one weight, not {self.block}")

    @property
    def name(self) -> str:
        return f"int{self.bits}_block{self.block}{'_float16' if self.scale_type == 'float16' else ''}"

    @property
    def lowest_opset(self) -> int:
        return opsets.INT4  # has blocks

    def block_width(self, inputs: int) -> int:
        return self.block

    def storable(self, scales: FloatArray) -> FloatArray:
        if self.scale_type == "float32":
            return scales
        magnitude = np.clip(np.abs(scales), SMALLEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16).astype(np.float32)
        return np.copysign(magnitude, scales)

    def fit(self, w: FloatArray, importance: FloatArray | None = None, tensor_scale: float | None = None) -> Grid:
        rows, weighting = rows_of_blocks(w, self.block, importance)
        steps = fit_steps(rows, self, weighting).reshape(len(w), -1)
        return Grid(self, self.storable(steps), None, self.block)

    def open_block(
        self, grid: Grid, block: int, target: FloatArray, importance: FloatArray, factors: FloatArray
    ) -> FloatArray:
        rows, weighting = as_rows(target, importance)
        steps = self.storable(fit_steps(rows, self, weighting) * factors)
        grid.scales[:, block] = steps
        return steps

    def value(self, grid: Grid, rounded: FloatArray, steps: FloatArray) -> FloatArray:
        products: FloatArray = rounded * steps
        return products.astype(np.float16).astype(np.float32) if self.scale_type == "float16" else products

    def dequantized(self, weight: QuantizedWeight) -> FloatArray:
        return unfolded(weight)
