"""Which calibration samples are for rounding, for effects and for judging."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.context import Context
from onnxmpq.feeds.types import Feeds
from onnxmpq.progress import Progress
from onnxmpq.samples import FEWEST_FOR_EFFECTS, Samples, gather_samples
from tests.graphs import feeds_for, prepared, residual_cnn, samples_for


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


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


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (40, "samples: 30 to calibrate with, 7 of which decide between plans; 10 others held out; from a stream"),
        (4, "samples: 3 to calibrate with; 1 others held out; from a stream"),
        (2, "samples: 2 to calibrate with; none held out; from a stream"),
    ],
)
def test_what_is_used_for_what_is_said(count: int, words: str) -> None:
    heard = Lines()
    feeds = [{"x": row[None]} for row in samples_for(residual_cnn(), count)["x"]]
    data = gather_samples(prepared(residual_cnn()), feeds, None, 64, Context(heard))
    assert len(data.calibration) + data.held_out * len(data.validation) == count
    [line] = [line for line in heard.said if line.startswith("samples: ")]
    assert line.startswith(words.removesuffix("a stream")) and line == data.in_words()


def test_few_samples_are_all_used_for_effects() -> None:
    data = Samples(numbered(FEWEST_FOR_EFFECTS), numbered(4), True)
    assert numbers(data.effects) == list(range(FEWEST_FOR_EFFECTS))
