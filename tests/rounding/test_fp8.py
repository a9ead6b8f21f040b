from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from onnxmpq.rounding.fp8 import (
    E4M3FN,
    E5M2,
    PROTECTED_LARGEST,
    Fp8Format,
    from_fp8,
    power_of_two_scale,
    quantize_fp8_dual,
    to_fp8,
)

from .strategies import gaussian, weights

REFERENCE = {"float8e4m3fn": ml_dtypes.float8_e4m3fn, "float8e5m2": ml_dtypes.float8_e5m2}
both = pytest.mark.parametrize("fp8", [E4M3FN, E5M2], ids=lambda f: f.name)


def all_float16() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def random_float32() -> np.ndarray:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
    near = (rng.standard_normal(200_000) * 2.0 ** rng.integers(-20, 18, 200_000)).astype(np.float32)
    return np.concatenate([bits, near, np.array([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0], np.float32)])


@both
@pytest.mark.parametrize("values", [all_float16, random_float32], ids=lambda f: f.__name__)
def test_bit_for_bit_as_ml_dtypes(fp8: Fp8Format, values: Callable[[], np.ndarray]) -> None:
    x = values()
    reference = REFERENCE[fp8.name]
    largest = np.float32(ml_dtypes.finfo(reference).max)
    with np.errstate(invalid="ignore"):
        expected, clipped = x.astype(reference), np.clip(x, -largest, largest).astype(reference)
    np.testing.assert_array_equal(to_fp8(x, fp8, saturate=False), expected.view(np.uint8))
    np.testing.assert_array_equal(to_fp8(x, fp8), clipped.view(np.uint8))


@both
def test_every_byte_decodes_as_ml_dtypes_does(fp8: Fp8Format) -> None:
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(REFERENCE[fp8.name]).astype(np.float32)
    decoded = from_fp8(codes, fp8)
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(np.signbit(decoded), np.signbit(expected))


@given(weights)
def test_power_of_two_scale_is_tight(w: np.ndarray) -> None:
    scale, peak = power_of_two_scale(w), np.abs(w).max()
    assert np.log2(scale) == int(np.log2(scale))
    assert peak / scale <= PROTECTED_LARGEST
    assert peak == 0 or peak / scale > PROTECTED_LARGEST / 2


@given(weights)
def test_dual_stays_inside_the_protected_range(w: np.ndarray) -> None:
    dual = quantize_fp8_dual(w, 16)
    assert np.abs(from_fp8(dual.fp8_codes(), E4M3FN)).max() <= 240


def test_dual_loses_little_to_the_fp8_cast() -> None:
    w = gaussian(64, 512)
    dual = quantize_fp8_dual(w, 64)
    before_cast = dual.groups.dequantize() * np.float32(dual.tensor_scale)
    relative = [np.linalg.norm(w - q) / np.linalg.norm(w) for q in (before_cast, dual.dequantize())]
    assert relative[0] < relative[1] < 1.1 * relative[0]
