"""Affine parameters of an activation tensor: uint8, of which fewer than 8 bits may be used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = 8
_SMALLEST_SCALE = 1e-12


@dataclass(frozen=True)
class QuantParams:
    """Affine parameters of one activation tensor: real = scale * (code - zero_point), code in 0..levels.

    bits: 2..8 used of a code; the file stores uint8.
    """

    scale: float
    zero_point: int
    bits: int = BITS

    @property
    def levels(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def low(self) -> float:
        return (0 - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        return (self.levels - self.zero_point) * self.scale

    def simulate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Quantize and dequantize, as QuantizeLinear and DequantizeLinear do (round half to even, saturate)."""
        codes = np.rint(values / np.float32(self.scale))
        codes += np.float32(self.zero_point)
        np.clip(codes, 0, self.levels, out=codes)
        codes -= np.float32(self.zero_point)
        codes *= np.float32(self.scale)
        return np.asarray(codes, dtype=np.float32)


def params_for(low: float, high: float, bits: int = BITS) -> QuantParams:
    """Parameters of the range [low, high], widened to hold 0, which must be exact."""
    low, high, levels = min(low, 0.0), max(high, 0.0), (1 << bits) - 1
    scale = float(np.float32(max((high - low) / levels, _SMALLEST_SCALE)))
    return QuantParams(scale, int(np.clip(round(-low / scale), 0, levels)), bits)


def params_key(tensor: str, bits: int = BITS) -> str:
    """Under which a tensor's parameters are kept: its name for 8 bits; a tensor may have others for fewer bits."""
    return tensor if bits == BITS else f"{tensor}\t{bits}"
