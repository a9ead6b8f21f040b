from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.feeds.select import natural_order, spread


@given(count=st.integers(0, 500), limit=st.integers(1, 600))
def test_spread_takes_distinct_indices_at_even_distances(count: int, limit: int) -> None:
    chosen = spread(count, limit)
    assert len(chosen) == min(count, limit)
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < count for index in chosen)
    steps = {after - before for before, after in pairwise(chosen)}
    assert not steps or max(steps) - min(steps) <= 1


def test_without_limit_everything_is_taken() -> None:
    assert spread(5, None) == [0, 1, 2, 3, 4]


def test_numbers_in_names_sort_by_value() -> None:
    assert sorted(["x_10", "x_2", "X_1", "3"], key=natural_order) == ["3", "X_1", "x_2", "x_10"]
