from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from onnxmpq.rounding import Dual, PerBlock, PerChannel, QuantizedWeight, WeightFormat, quantize_weight

from .strategies import FORMATS, correlated_hessian, formats, gaussian, weights


def relative_error(w: np.ndarray, weight_format: WeightFormat) -> float:
    return float(np.linalg.norm(w - quantize_weight(w, weight_format).dequantize()) / np.linalg.norm(w))


@given(weights, formats)
def test_codes_scales_and_multipliers_stay_in_range(w: np.ndarray, weight_format: WeightFormat) -> None:
    q = quantize_weight(w, weight_format)
    assert q.codes.dtype == np.int8 and q.codes.shape == w.shape
    assert q.codes.min() >= weight_format.low and q.codes.max() <= weight_format.high
    assert q.scales.dtype == np.float32 and np.isfinite(q.scales).all() and (q.scales != 0).all()
    assert weight_format.negative_scales or (q.scales > 0).all()
    if q.multipliers is not None:
        assert q.multipliers.min() >= 1 and q.multipliers.max() <= 15
    assert q.dequantize().shape == w.shape


def code_limits(q: QuantizedWeight) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest code that each weight may have, float32 [O, K]."""
    low, high = (np.empty(q.codes.shape, np.float32) for _ in range(2))
    for number, start in enumerate(range(0, q.codes.shape[1], q.block)):
        for limits, of_block in zip((low, high), q.grid.limits(number), strict=True):
            limits[:, start : start + q.block] = np.reshape(of_block, (-1, 1))
    return low, high


@given(weights, formats)
def test_error_is_at_most_half_a_step_where_nothing_clips(w: np.ndarray, weight_format: WeightFormat) -> None:
    q = quantize_weight(w, weight_format)
    low, high = code_limits(q)
    inside = (q.codes > low) & (q.codes < high)
    step = np.abs(q.grid.steps_per_input(w.shape[1]))
    error = np.abs(w - q.dequantize())
    assert (error <= 0.5001 * step)[inside].all()


@given(weights, formats.filter(lambda f: not f.has_multipliers))  # integers cannot spell every set of steps
def test_never_worse_than_the_largest_magnitude_rule(w: np.ndarray, weight_format: WeightFormat) -> None:
    """Independent reference: step = max|w| / largest code, block by block in float64; with zero points the step that
    just holds all weights and 0."""
    q = quantize_weight(w, weight_format)
    restored = q.dequantize().astype(np.float64)
    for start in range(0, w.shape[1], q.block):
        block = w[:, start : start + q.block].astype(np.float64)
        step = np.maximum(np.abs(block).max(axis=1, keepdims=True) / weight_format.high, 1e-30)
        low: np.ndarray | int = weight_format.low
        high: np.ndarray | int = weight_format.high
        if weight_format.shifted:
            top, bottom = block.max(axis=1, initial=0), block.min(axis=1, initial=0)
            step = np.maximum((top - bottom)[:, None] / weight_format.high, 1e-30)
            zero = np.round(-bottom[:, None] / step)
            low, high = -zero, weight_format.high - zero
        reference = np.clip(np.round(block / step), low, high) * step
        error = np.sum((block - restored[:, start : start + q.block]) ** 2, axis=1)
        bound = np.sum((block - reference) ** 2, axis=1)
        assert (error <= 1.001 * bound + 1e-9 * np.sum(block**2, axis=1)).all()


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda f: f"{f.name}{'' if f.negative_scales else '+'}")
def test_zeros_and_single_values(weight_format: WeightFormat) -> None:
    zeros = np.zeros((3, 48), np.float32)
    assert not quantize_weight(zeros, weight_format).dequantize().any()
    tiny = np.full((2, 48), 1e-44, np.float32)
    assert np.isfinite(quantize_weight(tiny, weight_format).dequantize()).all()
    constant = np.full((2, 48), -0.7, np.float32)
    np.testing.assert_allclose(quantize_weight(constant, weight_format).dequantize(), constant, rtol=1e-5)


def test_a_dual_block_of_zeros_does_not_set_the_scale() -> None:
    w = 1e-3 * gaussian(4, 128)
    w[:, :64] = 0
    assert relative_error(w, Dual(4, 64)) < 0.12


def test_gaussian_weights_reach_the_known_error_levels() -> None:
    w = gaussian(128, 1152)
    channel = relative_error(w, PerChannel(4))
    block = relative_error(w, PerBlock(4, 64, negative_scales=False))
    dual = relative_error(w, Dual(4, 64))
    assert channel == pytest.approx(0.1075, rel=0.02)  # Max (1960), 16 levels: √0.01154
    assert dual < 0.9 * channel
    assert dual < 1.025 * block


def test_negative_scales_pay() -> None:
    w = gaussian(128, 1152)
    positive = relative_error(w, PerBlock(4, 32, negative_scales=False))
    assert relative_error(w, PerBlock(4, 32)) < 0.96 * positive


def test_weighting_lowers_the_weighted_error() -> None:
    w, hessian = gaussian(32, 96), correlated_hessian(96)
    importance = np.diag(hessian)
    plain, weighted = (
        np.sum(importance * (w - quantize_weight(w, PerChannel(3), hessian=h).dequantize()) ** 2)
        for h in (None, hessian)
    )
    assert weighted < plain


def test_grouped_statistics_reach_their_channels() -> None:
    w = gaussian(8, 9)
    hessian = np.stack([correlated_hessian(9, seed) for seed in range(4)])
    whole = quantize_weight(w, PerChannel(3), hessian=hessian)
    for group in range(4):
        part = quantize_weight(w[2 * group : 2 * group + 2], PerChannel(3), hessian=hessian[group])
        np.testing.assert_allclose(part.scales, whole.scales[2 * group : 2 * group + 2], rtol=1e-5)


def test_inputs_that_never_fire_keep_sane_scales() -> None:
    w, hessian = gaussian(4, 64), np.zeros((64, 64), np.float32)
    plain = quantize_weight(w, PerBlock(4, 32))
    np.testing.assert_array_equal(quantize_weight(w, PerBlock(4, 32), hessian=hessian).codes, plain.codes)
    hessian[:32, :32] = np.eye(32)
    half_dead = quantize_weight(w, PerBlock(4, 32), hessian=hessian)
    np.testing.assert_allclose(half_dead.scales, plain.scales, rtol=1e-4)


def test_wrong_arguments_are_refused() -> None:
    w = gaussian(4, 8)
    with pytest.raises(ValueError, match="no rounding method 'magic'"):
        quantize_weight(w, PerChannel(8), method="magic")
    with pytest.raises(ValueError, match="finite"):
        quantize_weight(w * np.nan, PerChannel(8))
    with pytest.raises(ValueError, match="do not fit"):
        quantize_weight(w, PerChannel(8), hessian=np.eye(9, dtype=np.float32))
    with pytest.raises(ValueError, match="NaN"):
        quantize_weight(w, PerChannel(8), hessian=np.full((8, 8), np.nan, np.float32))
