from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxmpq.rounding.equalize import LARGEST_FACTOR, cross_layer_factors, smoothing_factors

from .strategies import gaussian

ranges = arrays(np.float32, 6, elements=st.floats(0, 1e6, width=32))


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
