from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given

from onnxmpq.rounding import Fp8, Fp8Dual, PerBlock, quantize_weight
from onnxmpq.rounding.fp8 import (
    E4M3FN,
    E5M2,
    PROTECTED_LARGEST,
    SMALLEST_SCALE,
    Fp8Format,
    from_fp8,
    power_of_two_scale,
    round_to_fp8,
    to_fp8,
)
from onnxmpq.rounding.second_order import output_error

from .strategies import correlated_hessian, gaussian, weights

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
    assert peak == 0 or scale == SMALLEST_SCALE or peak / scale > PROTECTED_LARGEST / 2


@pytest.mark.parametrize("values", [all_float16, random_float32], ids=lambda f: f.__name__)
def test_the_fast_way_rounds_to_the_same_values(values: Callable[[], np.ndarray]) -> None:
    x = values()
    expected, found = from_fp8(to_fp8(x, E4M3FN), E4M3FN), round_to_fp8(x)
    np.testing.assert_array_equal(found, expected)
    signed = ~np.isnan(x)
    np.testing.assert_array_equal(np.signbit(found[signed]), np.signbit(expected[signed]))


def test_the_fast_way_leaves_its_argument_alone() -> None:
    x = np.array([0.3, 500.0, -1e-3], np.float32)
    before = x.copy()
    round_to_fp8(x)
    np.testing.assert_array_equal(x, before)


@given(weights)
@example(np.full((1, 16), 1e-44, np.float32))
def test_dual_stays_inside_the_protected_range(w: np.ndarray) -> None:
    dual = quantize_weight(w, Fp8Dual(16))
    assert np.abs(dual.dequantize() / np.float32(dual.tensor_scale)).max() <= 256
    assert dual.tensor_scale == power_of_two_scale(w)


def test_dual_weights_are_the_cast_of_codes_times_steps() -> None:
    w = gaussian(8, 96)
    dual = quantize_weight(w, Fp8Dual(64))
    assert dual.scales.shape == (8, 2)
    spread = np.repeat(dual.scales, 64, axis=1)[:, :96]
    scaled = dual.codes.astype(np.float32) * spread / np.float32(dual.tensor_scale)
    expected = scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * dual.tensor_scale
    np.testing.assert_array_equal(dual.dequantize(), expected)


def test_dual_loses_little_to_the_fp8_cast() -> None:
    """Steps chosen with the cast in mind, against the same 4 bits without a cast."""
    w = gaussian(64, 512)
    formats = PerBlock(4, 64, negative_scales=False), Fp8Dual(64)
    plain, dual = (np.linalg.norm(w - quantize_weight(w, f).dequantize()) for f in formats)
    assert dual < 1.01 * plain


def test_gptq_makes_up_for_the_cast() -> None:
    """With the cast in its errors GPTQ ends closer than with the cast made afterwards."""
    w, hessian = gaussian(64, 256), correlated_hessian(256)
    plain = quantize_weight(w, PerBlock(4, 64, negative_scales=False), method="gptq", hessian=hessian)
    dual = quantize_weight(w, Fp8Dual(64), method="gptq", hessian=hessian)
    scale = np.float32(dual.tensor_scale)
    cast_later = round_to_fp8(plain.dequantize() / scale) * scale
    errors = [output_error(w, q, hessian[None]).sum() for q in (dual.dequantize(), cast_later)]
    assert errors[0] < 0.95 * errors[1]


def test_fp8_weights_are_bytes_times_a_scale_per_channel() -> None:
    w = gaussian(8, 40) * np.geomspace(1e-6, 1e6, 8, dtype=np.float32)[:, None]
    quantized = quantize_weight(w, Fp8())
    expected = quantized.codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * quantized.scales[:, None]
    np.testing.assert_array_equal(quantized.dequantize(), expected)
    np.testing.assert_allclose(expected, w, rtol=0.0626, atol=1e-4 * float(np.abs(w).max()))
    assert quantized.size_bytes == w.size + 4 * len(w)
