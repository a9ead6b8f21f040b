"""Values that arithmetic can go on with."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxmpq.statistics import finite, numbers
from onnxmpq.statistics.not_finite import squarable

ANY = arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32))


@given(ANY)
def test_finite_values_stay_and_others_are_zero(values: np.ndarray) -> None:
    found, kept = finite(values), np.isfinite(values)
    np.testing.assert_array_equal(found[kept], values[kept])
    assert not found[~kept].any()


@given(ANY)
def test_squares_are_finite(values: np.ndarray) -> None:
    found = squarable(values)
    assert np.isfinite(np.square(found)).all()
    changed = found != values
    assert all(abs(v) > 1e18 or not np.isfinite(v) for v in values[changed])


def test_what_is_no_array_of_numbers_is_empty() -> None:
    for value in (["a"], None, np.array(["a"], object), [np.ones(2)], {1: 2.0}):
        assert numbers(value).shape == (0,)
    np.testing.assert_array_equal(numbers(np.array([True, False])), [1.0, 0.0])
    np.testing.assert_array_equal(numbers(np.array([[1, 2]], np.int64)), [[1.0, 2.0]])
    np.testing.assert_array_equal(numbers(np.array([1, np.inf], np.float16)), [1.0, 0.0])
