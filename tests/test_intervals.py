"""The binomial distribution against SciPy's, and how often the interval of the median holds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr

from onnxmpq.intervals import at_most, median_interval


@given(st.integers(1, 5000), st.floats(0.0, 1.0), st.data())
def test_the_sum_is_that_of_scipy(trials: int, probability: float, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = float(bdtr(successes, trials, probability))
    assert at_most(successes, trials, probability) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_ends() -> None:
    assert at_most(-1, 4, 0.5) == 0.0 and at_most(4, 4, 0.5) == 1.0
    assert at_most(3, 4, 0.0) == 1.0 and at_most(3, 4, 1.0) == 0.0


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=60))
def test_the_interval_of_the_median_holds_the_median_of_the_values(values: list[float]) -> None:
    low, high = median_interval(np.array(values))
    assert min(values) <= low <= np.median(values) <= high <= max(values)


def test_the_interval_of_the_median_covers_it_as_often_as_it_says() -> None:
    """Skewed noise, as timings have it: in 95 of 100 cases at least, but not always."""
    generator = np.random.default_rng(0)
    drawn = generator.lognormal(0.0, 0.5, (2000, 12))
    inside = sum(low <= 1.0 <= high for low, high in map(median_interval, drawn)) / 2000
    assert 0.945 < inside < 0.995
