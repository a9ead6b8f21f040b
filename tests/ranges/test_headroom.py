"""Made-up samples leave room for what they do not excite."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxmpq.ranges import headroom, observe
from onnxmpq.ranges.headroom import DEEPEST
from tests.graphs import feeds_for, graph, prepared


def test_room_grows_with_depth_but_not_where_there_are_ends() -> None:
    proto = graph(
        "a = MatMul (x, w)  b = Relu (a)  s = Sigmoid (b)  y = MatMul (s, v)",
        "float[N, 8] x",
        "float[N, 8] y",
        "float[8, 8] w, float[8, 8] v",
    )
    factors = headroom(proto, ["x", "a", "b", "s", "y"])
    assert factors == {"x": 1.0, "a": pytest.approx(1.25), "b": pytest.approx(1.5), "s": 1.0, "y": DEEPEST}


@pytest.mark.parametrize("estimator", ["mse", "minmax"])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_range_of_an_observation_gets_it(estimator: str, bits: int) -> None:
    proto = graph("a = MatMul (x, w)  y = Tanh (a)", "float[N, 8] x", "float[N, 4] y", "float[8, 4] w")
    plain = observe(prepared(proto), feeds_for(proto), ["a", "y"])
    roomy = replace(plain, headroom={"a": 1.5})
    before, after = (o.estimate("a", estimator, bits) for o in (plain, roomy))
    assert after.zero_point == before.zero_point
    assert (after.low, after.high) == pytest.approx((1.5 * before.low, 1.5 * before.high))
    assert roomy.estimate("y", estimator) == plain.estimate("y", estimator)
