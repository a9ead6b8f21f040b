"""Integer codes with one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from onnxmpq.rounding.scales import fit_steps, rows_of_blocks
from onnxmpq.rounding.types import FloatArray, Grid, WeightFormat

FREE = "_saturation_free"
"""Ends the name of a format whose codes obey the bound of `rounding.overflow`."""


@dataclass(frozen=True)
class PerChannel(WeightFormat):
    """w ≈ scale[o] · code, one positive float32 scale per output channel.

    saturation_free: 8 bits only; the codes obey `rounding.overflow.pair_limits`.
    """

    saturation_free: bool = False

    multiplied_as_int8: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.saturation_free and not self.may_saturate:
            raise ValueError(f"{self.name}: codes of {self.bits} bits cannot saturate")

    @property
    def name(self) -> str:
        return f"int{self.bits}_channel{FREE if self.saturation_free else ''}"

    @property
    def may_saturate(self) -> bool:
        return self.bits == 8

    @property
    def without_saturation(self) -> PerChannel:
        return replace(self, saturation_free=True)

    @property
    def low(self) -> int:
        """-2^(bits-1), but -127 for 8 bits: onnxruntime's and TensorRT's symmetric range."""
        return -127 if self.bits == 8 else super().low

    def fit(self, w: FloatArray, importance: FloatArray | None = None, tensor_scale: float | None = None) -> Grid:
        block = self.block_width(w.shape[1])
        rows, weighting = rows_of_blocks(w, block, importance)
        return Grid(self, fit_steps(rows, self, weighting), None, block)
