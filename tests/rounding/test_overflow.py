"""The bound on neighbouring weights, against every activation that there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from onnxmpq.rounding.overflow import (
    LARGEST_SUM,
    SMALLEST_SUM,
    overflowing_channels,
    overflowing_pairs,
    pair_limits,
)

CODES = st_numpy.arrays(
    np.int8, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(-128, 127)
)  # [O, K]


def saturated(pair: tuple[int, int], largest_code: int) -> bool:
    """Whether any two activation codes take the sum of products out of 16 bits; the sum is linear in each, so the
    corners are enough."""
    sums = [a * pair[0] + b * pair[1] for a, b in itertools.product((0, largest_code), repeat=2)]
    return max(sums) > LARGEST_SUM or min(sums) < SMALLEST_SUM


@given(CODES, st.integers(0, 255))
def test_a_pair_is_found_exactly_where_an_activation_saturates_it(codes: np.ndarray, largest_code: int) -> None:
    found = overflowing_pairs(codes, largest_code)
    padded = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))).astype(int)
    expected = [[saturated((row[p], row[p + 1]), largest_code) for p in range(0, len(row), 2)] for row in padded]
    assert found.tolist() == expected
    assert overflowing_channels(codes, largest_code).tolist() == [any(row) for row in expected]


@pytest.mark.parametrize("largest_code", [1, 127, 128, 129, 200, 254, 255])
def test_the_limits_are_the_last_sums_that_fit(largest_code: int) -> None:
    lowest, highest = pair_limits(largest_code)
    assert largest_code * highest <= LARGEST_SUM < largest_code * (highest + 1)
    assert largest_code * lowest >= SMALLEST_SUM > largest_code * (lowest - 1)


def test_uint8_activations() -> None:
    assert pair_limits() == (-128, 128)
    assert overflowing_pairs(np.array([[127, 1, 127, 2, -128, 0, -128, -1, 127, -128, 127]])).tolist() == [
        [False, True, False, True, False, False]
    ]


def test_no_pair_overflows_up_to_half_of_the_codes() -> None:
    assert not overflowing_channels(np.full((1, 2), 127), 128).any()
    assert overflowing_channels(np.full((1, 2), 127), 130).all()


@pytest.mark.parametrize("largest_code", [-1, 256])
def test_codes_that_no_uint8_holds(largest_code: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 255"):
        pair_limits(largest_code)
