"""Gains of blocks: exact where divergence is a multiple of the change, shrunk where it is noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.sensitivity.gains import Arrival, fit_gains

SIZES = st.lists(st.floats(0.1, 10.0), min_size=4, max_size=4)


def arrival(target: str, sizes: list[float], gain: float, *, useless: float = 1.0) -> Arrival:
    """A change whose divergence is `gain` times its first measure; the second has nothing to do with it."""
    size = np.array(sizes)
    return Arrival(target, np.stack([size, size * useless]), gain * size)


@given(st.lists(SIZES, min_size=1, max_size=5), st.floats(1e-6, 1e3))
def test_one_gain_of_all_changes_is_found(rows: list[list[float]], gain: float) -> None:
    _, (found,) = fit_gains([[arrival(f"t{i}", row, gain) for i, row in enumerate(rows)]])
    assert found.factor == pytest.approx(gain)
    assert found.of("t0") == pytest.approx(gain) == found.of("another tensor")
    assert found.changes == len(rows)


def test_tensors_without_noise_keep_gains_of_their_own() -> None:
    _, (found,) = fit_gains([[arrival("a", [1.0, 2.0, 3.0], 4.0), arrival("b", [2.0, 1.0, 1.0], 1.0)]])
    assert found.of("a") == pytest.approx(4.0) and found.of("b") == pytest.approx(1.0)
    assert found.of("c") == found.factor == pytest.approx(2.0)
    assert found.spread == pytest.approx(np.log(4.0) / np.sqrt(2.0))


def test_what_may_be_noise_is_shrunk_to_the_gain_of_the_block() -> None:
    """Two changes with the same mean gain over many samples, of which each has seen few."""
    noisy = [
        Arrival("a", np.ones((1, 4)), np.array([0.1, 0.1, 0.1, 5.0])),
        Arrival("b", np.ones((1, 4)), np.array([1.0, 0.2, 1.5, 1.0])),
    ]
    _, (found,) = fit_gains([noisy])
    low, high = sorted(float(a.divergence.mean()) for a in noisy)
    assert low < found.of("b") <= found.factor <= found.of("a") < high


def test_the_measure_of_least_spread_is_taken() -> None:
    rows = [arrival("a", [1.0, 2.0], 3.0, useless=10.0), arrival("b", [2.0, 4.0], 3.0, useless=0.1)]
    assert fit_gains([rows])[0] == 0
    swapped = [Arrival(a.target, a.sizes[::-1], a.divergence) for a in rows]
    best, (found,) = fit_gains([swapped])
    assert best == 1 and found.factor == pytest.approx(3.0)


def test_a_block_of_which_nothing_arrives_takes_its_neighbours_gain() -> None:
    nothing = Arrival("a", np.ones((1, 2)), np.zeros(2))
    _, gains = fit_gains([[arrival("x", [1.0, 1.0], 5.0)], [nothing], []])
    assert [g.factor for g in gains] == pytest.approx([5.0] * 3)
    assert [g.changes for g in gains] == [1, 0, 0]
    assert [g.factor for g in fit_gains([[nothing]])[1]] == [0.0]
