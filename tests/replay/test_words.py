"""The last lines of `apply --measure`: what is known of the model, and what to do next, as `convert` says it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxmpq.replay import Applied
from onnxmpq.replay.replay import in_words
from tests.graphs import residual_cnn
from tests.report.test_conclusion import GOOD, PLAN


@pytest.mark.parametrize(
    ("met", "level", "said"),
    [
        (True, "good", "next: use it in place of the original"),
        (False, "good", "next: the budget of the plan is not met here"),
        (None, "good", "next: measure on the target of the plan"),
        (True, "bad", "next: do not use it: give a larger budget"),
        (False, "noticeable", "a floor loses less; the budget of the plan is not met here"),
    ],
)
def test_a_plan_that_was_measured_again_says_what_to_do_next(met: bool | None, level: str, said: str) -> None:
    plan = replace(PLAN, met=met, quality={"level": level, "reasons": []})
    applied = Applied(residual_cnn(), plan, GOOD.validation)
    assert said in in_words(applied)[-1]


def test_a_plan_that_was_not_measured_says_nothing_of_it() -> None:
    assert not any(line.startswith("next") for line in in_words(Applied(residual_cnn(), PLAN)))
