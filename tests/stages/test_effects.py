"""How many samples effects are measured on: by the work in the graph, never by a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.execution import float_shapes
from onnxmpq.stages.effects import (
    EFFECT_SECONDS,
    ELEMENT_S,
    FEWEST_EFFECT_SAMPLES,
    MAC_S,
    NODE_S,
    REFERENCE_THREADS,
    affordable,
    forward_seconds,
)
from tests.graphs import feeds_for, graph, prepared

CONV = graph(
    "c = Conv <kernel_shape = [3, 3]> (x, w)  y = Relu (c)", "float[1, 4, 6, 6] x", "float[1, 8, 4, 4] y",
    "float[8, 4, 3, 3] w",
)  # fmt: skip


def test_the_estimate_counts_products_elements_and_nodes() -> None:
    model = prepared(CONV)
    seconds = forward_seconds(model, float_shapes(model, feeds_for(CONV)))
    macs, elements, nodes = 8 * 4 * 4 * (4 * 3 * 3), 4 * 6 * 6 + 8 * 4 * 4, 2
    expected = (macs * MAC_S + elements * ELEMENT_S + nodes * NODE_S) / REFERENCE_THREADS
    assert seconds == pytest.approx(expected, rel=1e-12)


@given(st.floats(1e-6, 10.0), st.integers(1, 5000), st.integers(1, 500))
def test_samples_are_few_enough_and_come_in_steps(forward_s: float, tries: int, available: int) -> None:
    count = affordable(forward_s, tries, available)
    assert 1 <= count <= available
    if count not in (available, FEWEST_EFFECT_SAMPLES):
        assert count in {FEWEST_EFFECT_SAMPLES * k << n for n in range(8) for k in (1,)} | {12 << n for n in range(8)}
        assert 0.6 * forward_s * tries * count <= 1.5 * EFFECT_SECONDS
    assert affordable(2 * forward_s, tries, available) <= count


@given(st.floats(1e-4, 0.1), st.integers(4, 10), st.integers(1, 500))
def test_menus_of_about_the_same_length_share_their_samples(forward_s: float, power: int, available: int) -> None:
    shortest, longest = 1 << power, (2 << power) - 1
    assert affordable(forward_s, shortest, available) == affordable(forward_s, longest, available)
