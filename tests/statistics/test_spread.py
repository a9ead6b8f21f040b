"""Moments measured in tasks are those of one process, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.execution import MEMORY, MemoryBudget
from onnxmpq.model import InputView
from onnxmpq.statistics import measure_moments, spread_moments
from onnxmpq.statistics.spread import pieces
from tests.executors import Shuffled
from tests.graphs import feeds_for, prepared, residual_cnn


@pytest.mark.parametrize("memory", [MEMORY, MemoryBudget(sums=1)], ids=["one chunk", "a chunk a layer"])
@pytest.mark.parametrize("width", [1, 2, 8])
def test_tasks_give_the_same_moments(memory: MemoryBudget, width: int) -> None:
    proto = residual_cnn()
    model, feeds, executor = prepared(proto), feeds_for(proto, 7), Shuffled(width, seed=width)
    weights = list(model.weights)[1:]
    here = dict(measure_moments(model, weights, feeds, memory=memory))
    there = list(spread_moments(executor, model, weights, feeds, memory=memory))
    assert len(there) == len(here)
    for name, theirs in there:
        ours = here[name]
        np.testing.assert_array_equal(ours.hessian, theirs.hessian, err_msg=name)
        np.testing.assert_array_equal(ours.mean, theirs.mean, err_msg=name)
    assert executor.done >= min(width, len(here))


def test_what_is_too_large_for_workers_is_measured_here() -> None:
    proto = residual_cnn()
    model, feeds = prepared(proto), feeds_for(proto, 3)
    held = MEMORY.sums + MEMORY.shown
    for task_bytes, here in ((held, True), (held + 2**20, False)):
        executor = Shuffled(2, seed=0, task_bytes=task_bytes)
        assert len(list(spread_moments(executor, model, model.weights, feeds))) == len(model.weights)
        assert (executor.done == 0) is here


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 10))
def test_pieces_are_the_keys_in_order(inputs: list[int], count: int) -> None:
    keys = [(f"t{n}", InputView(inputs=size)) for n, size in enumerate(inputs)]
    found = pieces(keys, count)
    assert [key for piece in found for key in piece] == keys
    assert len(found) <= count and all(found)
    largest = max(sum(view.inputs**2 for _, view in piece) for piece in found)
    assert largest <= sum(size**2 for size in inputs) / count + max(inputs) ** 2
