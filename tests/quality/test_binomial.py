"""The binomial distribution against SciPy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr

from onnxmpq.quality.binomial import at_most


@given(st.integers(1, 5000), st.floats(0.0, 1.0), st.data())
def test_the_sum_is_that_of_scipy(trials: int, probability: float, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = float(bdtr(successes, trials, probability))
    assert at_most(successes, trials, probability) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_ends() -> None:
    assert at_most(-1, 4, 0.5) == 0.0 and at_most(4, 4, 0.5) == 1.0
    assert at_most(3, 4, 0.0) == 1.0 and at_most(3, 4, 1.0) == 0.0
