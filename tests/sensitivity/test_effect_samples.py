from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.feeds.types import Feeds
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.sensitivity.effect_samples import effect_samples, mixed, share_of, spread_by_doubt
from tests.graphs import graph, prepared

MODEL = prepared(graph("y = MatMul (x, w)", "float[N, 4] x", "float[N, 4] y", "float[4, 4] w"))


def given(x: np.ndarray) -> Feeds:
    return Feeds({"x": x}, input_specs(open_session(MODEL.proto)), "rows of a test")


def test_samples_that_a_classifier_doubts_come_first() -> None:
    w = MODEL.weight(MODEL.layers[0]).T  # [inputs, classes]
    wanted = np.full((6, 4), -30.0)
    wanted[np.arange(6), np.arange(6) % 4] = 30.0  # sure of all
    wanted[2], wanted[5, :2] = 0.0, 30.0  # but these: among four classes, and between two
    x = np.linalg.solve(w.T.astype(np.float64), wanted.T).T.astype(np.float32)
    feeds = given(x)
    assert effect_samples(MODEL, feeds, 1, {"y": "logits"}, threads=2) == (
        [2],
        pytest.approx((3 / 4 + 1 / 2) / 6 / (3 / 4)),
    )
    assert effect_samples(MODEL, feeds, 2, {"y": "logits"}, threads=2) == ([2, 5], pytest.approx(2 / 6))
    numbers, share = effect_samples(MODEL, feeds, 6, {"y": "logits"}, threads=2)
    assert (sorted(numbers), share) == (list(range(6)), 1.0)


def test_without_classes_samples_are_evenly_spread() -> None:
    feeds = given(np.ones((9, 4), np.float32))
    numbers, share = effect_samples(MODEL, feeds, 3, {"y": "values"}, threads=2)
    assert (sorted(numbers), share) == ([0, 4, 8], 1.0)


@pytest.mark.parametrize("count", [1, 2, 7, 16, 48])
def test_every_first_part_is_spread(count: int) -> None:
    order = mixed(range(count))
    assert sorted(order) == list(range(count))
    for part in range(4, count):
        assert max(np.diff([0, *sorted(order[:part]), count])) <= 3 * count / part


def test_the_first_samples_have_doubts_that_are_spread_as_all_are() -> None:
    feeds, doubts = given(np.ones((9, 4), np.float32)), np.array([5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 4.0, 6.0])
    order = spread_by_doubt(doubts, feeds, 3)
    assert sorted(order) == list(range(9)) and sorted(doubts[order[:3]]) == [1.0, 5.0, 9.0]
    assert share_of(doubts, order[:3]) == 1.0 and share_of(doubts, [2]) == 5 / 9
    assert spread_by_doubt(doubts, feeds, 9) == spread_by_doubt(np.zeros(9), feeds, 3) == list(range(9))
