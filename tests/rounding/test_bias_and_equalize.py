from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxmpq.rounding import WeightFormat, quantize_weight
from onnxmpq.rounding.bias import bias_correction, centred
from onnxmpq.rounding.equalize import LARGEST_FACTOR, cross_layer_factors, smoothing_factors
from onnxmpq.rounding.second_order import output_error

from .strategies import gaussian

ranges = arrays(np.float32, 6, elements=st.floats(0, 1e6, width=32))


def test_bias_correction_removes_the_mean_error() -> None:
    w = gaussian(8, 20)
    x = np.random.default_rng(0).exponential(1, (1000, 20)).astype(np.float32)
    q = quantize_weight(w, WeightFormat.per_channel(3)).dequantize()
    corrected = x @ q.T + bias_correction(w, q, x.mean(axis=0))
    np.testing.assert_allclose(corrected.mean(axis=0), (x @ w.T).mean(axis=0), atol=1e-4)


def test_bias_correction_of_groups() -> None:
    w, q, mean = gaussian(6, 9), gaussian(6, 9, 1), gaussian(3, 9, 2)
    expected = [(w[o] - q[o]) @ mean[o // 2] for o in range(6)]
    np.testing.assert_allclose(bias_correction(w, q, mean), expected, rtol=1e-5)


def test_centred_statistics_measure_the_error_after_bias_correction() -> None:
    w, x = gaussian(4, 10), np.random.default_rng(0).exponential(1, (500, 10)).astype(np.float32)
    mean, q = x.mean(axis=0), quantize_weight(w, WeightFormat.per_channel(3)).dequantize()
    left = x @ w.T - x @ q.T - bias_correction(w, q, mean)
    predicted = output_error(w, q, centred(x.T @ x / 500, mean)[None])
    np.testing.assert_allclose(predicted, np.mean(left**2, axis=0), rtol=1e-3)


def test_other_fp32_inputs_count_in_correction_and_statistics() -> None:
    w, rng = gaussian(4, 10), np.random.default_rng(0)
    x_fp = rng.exponential(1, (500, 10)).astype(np.float32)
    x = (0.9 * x_fp + 0.1 * rng.exponential(1, (500, 10))).astype(np.float32)
    mean, mean_fp = x.mean(axis=0), x_fp.mean(axis=0)
    q = quantize_weight(w, WeightFormat.per_channel(4)).dequantize()
    left = x_fp @ w.T - x @ q.T - bias_correction(w, q, mean, mean_fp)
    np.testing.assert_allclose(left.mean(axis=0), 0, atol=1e-4)
    expected = (x - mean).T @ (x_fp - mean_fp) / 500
    np.testing.assert_allclose(centred(x.T @ x_fp / 500, mean, mean_fp), expected, atol=1e-4)


@given(ranges, ranges)
def test_cross_layer_factors_equalise_the_ranges(first: np.ndarray, second: np.ndarray) -> None:
    factors = cross_layer_factors(first, second)
    assert factors.dtype == np.float32 and (factors > 0).all()
    free = (first > 0) & (second > 0) & (factors < LARGEST_FACTOR) & (factors > 1 / LARGEST_FACTOR)
    np.testing.assert_allclose((first / factors)[free], (second * factors)[free], rtol=1e-4)
    assert (factors[(first == 0) | (second == 0)] == 1).all()


@given(ranges, ranges, st.floats(0, 1))
def test_smoothing_factors_follow_the_paper(activations: np.ndarray, weights: np.ndarray, strength: float) -> None:
    factors = smoothing_factors(activations, weights, strength)
    assert np.isfinite(factors).all() and (factors > 0).all()
    for x, w, s in zip(activations.tolist(), weights.tolist(), factors.tolist(), strict=True):
        expected = x**strength / w ** (1 - strength) if x > 0 and w > 0 else 1.0
        assert np.isclose(s, min(max(expected, 1 / LARGEST_FACTOR), LARGEST_FACTOR), rtol=1e-4)


def test_equalised_layers_compute_the_same_through_relu() -> None:
    first, second, x = gaussian(5, 7), gaussian(3, 5, 1), gaussian(7, 11, 2)
    factors = cross_layer_factors(np.abs(first).max(axis=1), np.abs(second).max(axis=0))
    original = second @ np.maximum(first @ x, 0)
    equalised = (second * factors) @ np.maximum((first / factors[:, None]) @ x, 0)
    np.testing.assert_allclose(equalised, original, rtol=1e-4, atol=1e-5)
