"""Floors that samples cannot tell, against the binomial distribution itself."""

from __future__ import annotations

import math

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.quality import declared_rows, parse_floors, unresolved
from onnxmpq.quality.resolution import most_failures, samples_needed
from tests.graphs import graph


@given(st.floats(1e-3, 0.9))
def test_so_many_samples_and_no_fewer(failures: float) -> None:
    """P(no failure among n) = (1 - f)^n falls to 5 % at n, not before."""
    count = samples_needed(failures)
    assert math.comb(count, 0) * (1 - failures) ** count <= 0.05 * (1 + 1e-9)
    assert count == 1 or (1 - failures) ** (count - 1) > 0.05 * (1 - 1e-9)


@given(st.integers(1, 10_000))
def test_what_stays_possible_takes_as_many_samples_to_rule_out(count: int) -> None:
    assert (1 - most_failures(count)) ** count == pytest.approx(0.05)
    assert samples_needed(most_failures(count) * (1 + 1e-9)) <= count


def test_a_warning_names_the_floor_and_how_many_samples_it_takes() -> None:
    floors = parse_floors(min_agreement="99%", max_drop="1%")
    agreement, drop = unresolved(floors, 10, 10)
    assert agreement == (
        "10 samples cannot tell --min-agreement 99%: even if all agree, top-1 agreement may be 74.1% (95 % "
        "confidence); 299 can"
    )
    assert "--max-drop 1%" in drop and "299 can" in drop
    assert unresolved(floors, 299, 299) == ()
    assert unresolved(floors, 10, 640) == (drop,)  # 64 rows in each sample
    assert unresolved(floors, 10, None, shares=False) == ()
    assert unresolved(parse_floors(min_sqnr="30dB", min_agreement="100%", max_drop="0%"), 1, 1) == ()


@pytest.mark.parametrize(
    ("shape", "rows"), [("N, 10", 1), ("N, 7, 10", 7), ("N, T, 10", None), ("10", None)], ids=["1", "7", "open", "flat"]
)
def test_rows_by_the_declared_shape(shape: str, rows: int | None) -> None:
    proto: onnx.ModelProto = graph("y = Relu (x)", f"float[{shape}] x", f"float[{shape}] y")
    assert declared_rows(proto.graph.output) == rows
