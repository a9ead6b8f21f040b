"""Values of inner tensors are those of a full run, whether they were held or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from onnxmpq.runtime import SessionSettings
from onnxmpq.sensitivity.prefix import Prefix
from onnxmpq.sensitivity.suffix import Cutter
from tests.graphs import feeds_for, graph, outputs_of

CHAIN = graph(
    "a = MatMul (x, w)  b = Relu (a)  c = MatMul (b, w)  d = Tanh (c)  y = Add (d, b)",
    "float[N, 6] x",
    "float[N, 6] y, float[N, 6] a, float[N, 6] b, float[N, 6] c, float[N, 6] d",
    "float[6, 6] w",
)


@dataclass(frozen=True)
class Case:
    """starts: the nodes from which the three walks go on."""

    id: str
    held_bytes: int
    starts: list[int]


CASES = [
    Case("all held", 2**20, [0, 1, 3]),
    Case("nothing held", 0, [0, 0, 0]),
    Case("one tensor held", 3 * 2 * 6 * 4, [0, 1, 1]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_values_are_those_of_a_full_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    cutter, feeds = Cutter(CHAIN), feeds_for(CHAIN, 5)
    rows = [slice(0, 2), slice(2, 4), slice(4, 5)]
    monkeypatch.setattr("onnxmpq.sensitivity.prefix.HELD_BYTES", case.held_bytes)
    prefix = Prefix(cutter, feeds, rows, SessionSettings())
    starts = []
    for stop, needed in ((1, ["a"]), (3, ["c"]), (4, ["d", "y"])):  # y lies behind its stop
        starts.append(prefix.start)
        for inputs, values in zip(feeds.batches(2), prefix.walk(stop, needed, cutter.live(stop)), strict=True):
            expected = outputs_of(CHAIN, inputs)
            for tensor in needed:
                np.testing.assert_allclose(values[tensor], expected[tensor], atol=1e-5)
    assert starts == case.starts


def test_held_values_do_not_hold_the_memory_of_sessions() -> None:
    cutter, feeds = Cutter(CHAIN), feeds_for(CHAIN, 2)
    prefix = Prefix(cutter, feeds, [slice(0, 2)], SessionSettings())
    list(prefix.walk(1, ["a"], cutter.live(1)))
    [held] = prefix._held
    assert held and all(values.flags.owndata for values in held.values())
