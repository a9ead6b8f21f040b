"""Time left of a run: laws on any estimates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.screen.outlook import Outlook

SECONDS = st.floats(0.1, 1e4)
STAGES = st.dictionaries(st.sampled_from("abcdef"), SECONDS, min_size=2)


def told(seconds: dict[str, float]) -> Outlook:
    outlook = Outlook()
    outlook.expect(seconds)
    return outlook


@given(STAGES)
def test_all_of_it_is_left_at_first_and_nothing_at_the_end(seconds: dict[str, float]) -> None:
    outlook = told(seconds)
    assert outlook.left_s() == pytest.approx(sum(seconds.values()))
    for stage, taken in seconds.items():
        outlook.began(stage)
        outlook.ended(stage, taken)
    assert outlook.left_s() == 0 and not outlook.known


@given(STAGES, st.floats(0.1, 10.0))
def test_a_machine_that_is_slower_by_a_factor_is_seen_after_the_first_stage(
    seconds: dict[str, float], factor: float
) -> None:
    outlook, (first, *others) = told(seconds), seconds
    outlook.began(first)
    outlook.ended(first, factor * seconds[first])
    assert outlook.left_s() == pytest.approx(factor * sum(seconds[name] for name in others))
    assert outlook.stage_s(others[0]) == pytest.approx(factor * seconds[others[0]])


@given(STAGES)
def test_stages_that_did_not_have_to_run_are_over(seconds: dict[str, float]) -> None:
    outlook, (*_, last) = told(seconds), seconds
    outlook.began(last)
    assert outlook.left_s(last) == pytest.approx(seconds[last])


def test_what_was_not_expected_changes_nothing() -> None:
    outlook = told({"a": 1.0, "b": 2.0})
    outlook.began("x")
    outlook.ended("x", 100.0)
    assert outlook.left_s() == 3.0
    assert outlook.left_s("a", 0.25) == 2.25
