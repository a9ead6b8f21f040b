"""Affine uint8 parameters of an activation tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 255
_SMALLEST_SCALE = 1e-12


@dataclass(frozen=True)
class QuantParams:
    """Affine uint8 parameters of one activation tensor: real = scale * (code - zero_point)."""

    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        return (0 - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        return (LEVELS - self.zero_point) * self.scale

    def simulate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Quantize and dequantize, as QuantizeLinear and DequantizeLinear do (round half to even, saturate)."""
        codes = np.rint(values / np.float32(self.scale))
        codes += np.float32(self.zero_point)
        np.clip(codes, 0, LEVELS, out=codes)
        codes -= np.float32(self.zero_point)
        codes *= np.float32(self.scale)
        return np.asarray(codes, dtype=np.float32)


def params_for(low: float, high: float) -> QuantParams:
    """uint8 parameters of the range [low, high], widened to hold 0, which must be exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / LEVELS, _SMALLEST_SCALE)))
    return QuantParams(scale, int(np.clip(round(-low / scale), 0, LEVELS)))
