from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.feeds import Feeds
from tests.feeds.specs import spec


@given(samples=st.integers(1, 30), size=st.integers(0, 40), dynamic=st.booleans())
def test_batches_cover_each_sample_once_in_order(samples: int, size: int, dynamic: bool) -> None:
    feeds = Feeds({"x": np.arange(samples * 2).reshape(samples, 2)}, (spec("x", "N" if dynamic else 1, 2),), "test")
    batches = [batch["x"] for batch in feeds.batches(size)]
    np.testing.assert_array_equal(np.concatenate(batches), feeds.arrays["x"])
    assert all(len(batch) <= (max(size, 1) if dynamic else 1) for batch in batches)


def test_whole_samples_go_one_per_run_without_their_leading_axis() -> None:
    feeds = Feeds({"x": np.zeros((3, 4, 5))}, (spec("x", 4, 5),), "test")
    assert not feeds.batchable
    assert [batch["x"].shape for batch in feeds.batches(8)] == [(4, 5)] * 3
    with pytest.raises(ValueError, match="one sample per run"):
        feeds.batch([0, 1])


def test_take_keeps_the_order_asked_for() -> None:
    feeds = Feeds({"x": np.arange(4)[:, None]}, (spec("x", "N", 1),), "test", notes=("a note",))
    taken = feeds.take([3, 1])
    assert taken.arrays["x"][:, 0].tolist() == [3, 1]
    assert (len(taken), taken.notes) == (2, ("a note",))
