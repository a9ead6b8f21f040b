"""Which calibration samples are for rounding, for effects and for judging."""

from __future__ import annotations

import numpy as np

from onnxmpq.feeds.types import Feeds
from onnxmpq.samples import FEWEST_FOR_EFFECTS, Samples
from tests.graphs import feeds_for, residual_cnn


def numbered(count: int) -> Feeds:
    """The same samples with the first value of each telling which it is."""
    feeds = feeds_for(residual_cnn(), count)
    feeds.arrays["x"][:, 0, 0, 0] = np.arange(count)
    return feeds


def numbers(feeds: Feeds) -> list[int]:
    return [int(n) for n in feeds.arrays["x"][:, 0, 0, 0]]


def test_plans_are_judged_on_samples_that_effects_have_not_seen() -> None:
    data = Samples(numbered(64), numbered(4), True)
    assert len(data.effects) == 48
    assert not set(numbers(data.effects)) & set(numbers(data.deciding))


def test_few_samples_are_all_used_for_effects() -> None:
    data = Samples(numbered(FEWEST_FOR_EFFECTS), numbered(4), True)
    assert numbers(data.effects) == list(range(FEWEST_FOR_EFFECTS))
