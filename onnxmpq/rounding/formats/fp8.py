"""E4M3FN codes with one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmpq.rounding import opsets
from onnxmpq.rounding.fp8 import E4M3FN, E4M3FN_LARGEST, from_fp8, round_to_fp8, to_fp8
from onnxmpq.rounding.types import SMALLEST_STEP, CodeArray, FloatArray, Grid, QuantizedWeight, WeightFormat

NODE_BYTES = 90
"""Of a node in the file with its attributes, beyond what its names take."""


@dataclass(frozen=True)
class Fp8(WeightFormat):
    """w ≈ scale[o] · code, the code an E4M3FN byte (kept as int8)."""

    bits: int = field(default=8, init=False)

    linear: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "fp8_channel"

    @property
    def lowest_opset(self) -> int:
        return opsets.FP8

    def unfolding_bytes(self, layer: str) -> int:
        return NODE_BYTES + 3 * len(layer)

    def fit(self, w: FloatArray, importance: FloatArray | None = None, tensor_scale: float | None = None) -> Grid:
        """A channel's largest weight gets E4M3FN's largest value; a channel of zeros the scale 1."""
        largest = np.abs(w).max(axis=1, initial=0)
        scales = np.where(largest > 0, np.maximum(largest / E4M3FN_LARGEST, SMALLEST_STEP), np.float32(1))
        return Grid(self, scales, None, self.block_width(w.shape[1]))

    def rounded(self, grid: Grid, w: FloatArray, steps: FloatArray) -> FloatArray:
        """E4M3FN values."""
        return round_to_fp8(w / steps)

    def encoded(self, rounded: FloatArray) -> CodeArray:
        return to_fp8(rounded, E4M3FN).view(np.int8)

    def dequantized(self, weight: QuantizedWeight) -> FloatArray:
        return from_fp8(weight.codes.view(np.uint8), E4M3FN) * weight.scales[:, None]
