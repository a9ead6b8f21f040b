"""Runs side by side come back in order, few at a time, and fail where they would fail one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.execution import MemoryBudget, at_a_time, run_samples, with_outputs
from onnxmpq.execution.samples import in_order
from tests.graphs import feeds_for, outputs_of, residual_cnn


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
    memory = MemoryBudget(running=1000)
    assert at_a_time(8, 1, memory) == 8
    assert at_a_time(8, 500, memory) == 2
    assert at_a_time(8, 10_000, memory) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_samples_give_inner_tensors_and_outputs_in_their_order(threads: int) -> None:
    proto = residual_cnn()
    feeds = feeds_for(proto, 5)
    inner = list(run_samples(proto, feeds, ["r1", "a"], threads=threads))
    shown = list(run_samples(proto, feeds, ["r1"], shown=["r1", "s"], threads=threads))
    outputs = list(run_samples(proto, feeds, threads=threads))
    assert len(inner) == len(shown) == len(outputs) == 5
    for number, inputs in enumerate(feeds.batches(1)):
        expected = outputs_of(with_outputs(proto, ["r1", "a"]), inputs)
        np.testing.assert_allclose(inner[number][0], expected["r1"], atol=1e-5)
        np.testing.assert_allclose(inner[number][1], expected["a"], atol=1e-5)
        np.testing.assert_allclose(shown[number], [expected["r1"]], atol=1e-5)
        np.testing.assert_allclose(outputs[number], list(outputs_of(proto, inputs).values()), atol=1e-5)
