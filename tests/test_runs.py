"""Runs side by side come back in order, few at a time, and fail where they would fail one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.runs import IN_FLIGHT_BYTES, at_a_time, in_order


@given(st.lists(st.integers(), max_size=30), st.integers(1, 6))
def test_results_are_those_of_map_in_their_order(items: list[int], threads: int) -> None:
    assert list(in_order(lambda item: item * 3, items, threads)) == [item * 3 for item in items]


@pytest.mark.parametrize("threads", [1, 4])
def test_no_more_than_asked_for_are_taken_before_results_are(threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    for done, _ in enumerate(in_order(lambda item: item, items(), threads)):
        assert len(taken) <= done + threads + 1


def test_the_first_failure_is_raised_in_its_place() -> None:
    def work(item: int) -> float:
        return 1 / (item - 3)

    results = in_order(work, range(10), 4)
    assert [next(results) for _ in range(3)] == [1 / -3, 1 / -2, 1 / -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_work_that_nobody_waits_for_ends() -> None:
    before = threading.active_count()
    results = in_order(np.sqrt, range(100), 4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_large_runs_are_fewer_at_a_time() -> None:
    assert at_a_time(8, 1) == 8
    assert at_a_time(8, IN_FLIGHT_BYTES // 2) == 2
    assert at_a_time(8, 10 * IN_FLIGHT_BYTES) == 1
