"""Parameters of an activation tensor: affine uint8 (all or fewer of its bits), symmetric int8, float8e4m3fn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding import E4M3FN_LARGEST, round_to_fp8
from onnxmpq.schemes import ActivationType, HalfType, rounded

BITS = 8
_SYMMETRIC_LARGEST = {"int8": 127.0, "float8e4m3fn": float(E4M3FN_LARGEST)}
"""Largest magnitude of a symmetric range, in units of the scale."""

_SMALLEST_SCALE = 1e-12
_BLOCK = 1 << 15  # values, 128 KB: stays in the cache


@dataclass(frozen=True)
class QuantParams:
    """Parameters of one activation tensor: real = scale * (code - zero_point), a uint8 code in 0..levels.

    bits: 2..8 used of a uint8 code. type: of the codes in the file; those of int8 and float8e4m3fn are symmetric, and
    16-bit numbers stand for themselves (scale 1).
    """

    scale: float
    zero_point: int
    bits: int = BITS
    type: ActivationType | HalfType = "uint8"

    @property
    def levels(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def low(self) -> float:
        return -self.high if self.type != "uint8" else (0 - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        largest = self.levels if self.type == "uint8" else _SYMMETRIC_LARGEST[self.type]
        return (largest - self.zero_point) * self.scale

    def simulate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Quantize and dequantize, as QuantizeLinear and DequantizeLinear do (round half to even, saturate)."""
        if self.type == "float16" or self.type == "bfloat16":
            return rounded(values, self.type)
        if self.type == "float8e4m3fn":
            return np.asarray(round_to_fp8(values / np.float32(self.scale)) * np.float32(self.scale), dtype=np.float32)
        lowest, highest = (0, self.levels) if self.type == "uint8" else (-128, 127)
        low, high = np.float32(lowest - self.zero_point), np.float32(highest - self.zero_point)
        result = np.empty(values.shape, np.float32)
        flat, codes_of = values.reshape(-1), result.reshape(-1)
        for start in range(0, flat.size, _BLOCK):  # four passes over a large tensor would each go through main memory
            codes = codes_of[start : start + _BLOCK]
            np.divide(flat[start : start + _BLOCK], np.float32(self.scale), out=codes)
            np.rint(codes, out=codes)
            np.clip(codes, low, high, out=codes)
            codes *= np.float32(self.scale)
        return result


def params_for(low: float, high: float, bits: int = BITS, kind: ActivationType = "uint8") -> QuantParams:
    """Parameters of the range [low, high], widened to hold 0, which must be exact, and if symmetric both signs."""
    low, high, levels = min(low, 0.0), max(high, 0.0), (1 << bits) - 1
    if kind != "uint8":
        scale = max(max(-low, high) / _SYMMETRIC_LARGEST[kind], _SMALLEST_SCALE)
        return QuantParams(float(np.float32(scale)), 0, bits, kind)
    scale = float(np.float32(max((high - low) / levels, _SMALLEST_SCALE)))
    return QuantParams(scale, int(np.clip(round(-low / scale), 0, levels)), bits)


def params_key(tensor: str, bits: int = BITS) -> str:
    """Under which a tensor's parameters are kept: its name for 8 bits; a tensor may have others for fewer bits."""
    return tensor if bits == BITS else f"{tensor}\t{bits}"
