"""8-bit floats in NumPy (ONNX FLOAT8E4M3FN and FLOAT8E5M2), and DPQ's scale for weights on them.

E4M3FN: 4 exponent bits (bias 7), 3 mantissa bits, no infinities, one NaN per sign, largest value 448.
E5M2: 5 exponent bits (bias 15), 2 mantissa bits, as IEEE 754 would, largest finite value 57344 (arXiv 2209.05433).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

SIGN = 0x80


@dataclass(frozen=True)
class Fp8Format:
    """Bytes without their sign bit: largest finite value, what lies beyond it (infinity or NaN), and the usual NaN."""

    name: str
    mantissa_bits: int
    exponent_bias: int
    largest: int
    beyond: int
    nan: int


E4M3FN = Fp8Format("float8e4m3fn", mantissa_bits=3, exponent_bias=7, largest=0x7E, beyond=0x7F, nan=0x7F)
E5M2 = Fp8Format("float8e5m2", mantissa_bits=2, exponent_bias=15, largest=0x7B, beyond=0x7C, nan=0x7E)

E4M3FN_LARGEST = np.float32(448)
E4M3FN_SMALLEST_NORMAL = np.float32(2**-6)
_SUBNORMAL_STEPS = np.float32(2**9)  # in the interval from 0 to 1; below the smallest normal, steps are equal
_DROPPED_BITS = 20  # of float32's 23 mantissa bits

PROTECTED_LARGEST = 224.0
"""DPQ (arXiv 2505.14638) scales weights into ±224: rounded to the nearest int4 times a step, nothing passes ±240, the
largest value of an E4M3 with infinities. (Code -8 needs a weight of 7.5 steps or more: 8 steps <= 224 · 8 / 7.5.)"""


def to_fp8(x: FloatArray, fp8: Fp8Format, *, saturate: bool = True) -> ByteArray:
    """The bytes of the fp8 values nearest to x, ties to even, same shape (semantics of ONNX Cast and QuantizeLinear).

    saturate: what rounds beyond the largest value becomes the largest value; else infinity, or NaN where the format
    has no infinity. NaN stays NaN; zeros and NaNs keep their sign.
    """
    magnitude = np.abs(np.asarray(x, dtype=np.float32))
    lowest = 1 - fp8.exponent_bias  # exponent of the smallest normal value and of all subnormal ones
    usual = np.where(np.isfinite(magnitude), magnitude, np.float32(0))
    exponent = np.where(usual > 0, np.maximum(np.frexp(usual)[1] - 1, lowest), lowest)
    mantissa = np.rint(np.ldexp(usual, fp8.mantissa_bits - exponent)).astype(np.int64)
    # the implicit leading bit of a normal value adds one to its exponent field; so does a mantissa rounded up to 2
    code = ((exponent - lowest).astype(np.int64) << fp8.mantissa_bits) + mantissa
    code[(code > fp8.largest) | np.isinf(magnitude)] = fp8.largest if saturate else fp8.beyond
    code[np.isnan(magnitude)] = fp8.nan
    signed: ByteArray = (code | np.where(np.signbit(x), SIGN, 0)).astype(np.uint8)
    return signed


def round_to_fp8(x: FloatArray) -> FloatArray:
    """The E4M3FN values nearest to x, ties to even, saturating at ±448: `from_fp8(to_fp8(x, E4M3FN), E4M3FN)`, but
    several times faster. NaN stays NaN. Same shape."""
    values = np.asarray(x, dtype=np.float32)
    clipped = np.where(np.isnan(values), np.float32(0), np.clip(values, -E4M3FN_LARGEST, E4M3FN_LARGEST))
    subnormal = np.rint(clipped * _SUBNORMAL_STEPS) / _SUBNORMAL_STEPS
    bits = clipped.view(np.uint32)
    odd = (bits >> np.uint32(_DROPPED_BITS)) & np.uint32(1)
    kept = (bits + odd + np.uint32((1 << (_DROPPED_BITS - 1)) - 1)) & np.uint32(2**32 - (1 << _DROPPED_BITS))
    result = np.where(np.abs(clipped) < E4M3FN_SMALLEST_NORMAL, subnormal, kept.view(np.float32))
    return np.where(np.isnan(values), values, result)


def from_fp8(codes: ByteArray, fp8: Fp8Format) -> FloatArray:
    """The float32 values of fp8 bytes, same shape; exact."""
    values: FloatArray = _all_values(fp8)[codes]
    return values


def _all_values(fp8: Fp8Format) -> FloatArray:
    """float32 [256]: the value of each byte."""
    magnitudes = np.arange(SIGN)
    field, fraction = magnitudes >> fp8.mantissa_bits, magnitudes & ((1 << fp8.mantissa_bits) - 1)
    mantissa = fraction + np.where(field > 0, 1 << fp8.mantissa_bits, 0)
    values = np.ldexp(mantissa.astype(np.float32), np.maximum(field, 1) - fp8.exponent_bias - fp8.mantissa_bits)
    values[fp8.largest + 1 :] = np.nan
    if fp8.beyond != fp8.nan:
        values[fp8.beyond] = np.inf
    return np.concatenate([values, -values])


SMALLEST_SCALE = 2.0**-115
"""Of a tensor: times the smallest E4M3FN value it still is a normal float32."""


def power_of_two_scale(w: FloatArray, largest: float = PROTECTED_LARGEST) -> float:
    """The smallest power of two s >= `SMALLEST_SCALE` with max|w| / s <= largest; 1 for a weight of zeros."""
    peak = float(np.abs(w).max(initial=0))
    return max(2.0 ** np.ceil(np.log2(peak / largest)), SMALLEST_SCALE) if peak > 0 else 1.0
