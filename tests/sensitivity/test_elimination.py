"""Which candidate is kept, and how long the others are run."""

from __future__ import annotations

import numpy as np

from onnxmpq.sensitivity.divergence import Divergence, make_view
from onnxmpq.sensitivity.elimination import FIRST_LOOK, Elimination

SAMPLES = 64


def elimination_of(levels: list[float], samples: int = SAMPLES, spread: float = 0.1) -> tuple[Elimination, list[int]]:
    """A elimination on one output, its candidates' changes of these sizes, and how many samples each was run on."""
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(samples, 12)).astype(np.float32)
    view = make_view("y", "values", list(reference[:, None]), 64, 0)
    elimination = Elimination(Divergence((view,)), reference, len(levels))
    ran = [0] * len(levels)
    for sample in range(samples):
        for number in elimination.running:
            elimination.changes[number][sample] = levels[number] * (1.0 + spread * generator.normal(size=12))
            ran[number] += 1
        elimination.look(sample + 1)
    return elimination, ran


def test_a_clearly_worse_candidate_stops_at_the_first_look() -> None:
    elimination, ran = elimination_of([0.5, 0.1, 0.4])
    assert elimination.running == [1]
    assert ran == [FIRST_LOOK, SAMPLES, FIRST_LOOK]


def test_candidates_that_are_hard_to_tell_apart_run_on_half_of_the_samples() -> None:
    elimination, ran = elimination_of([0.1, 0.1], spread=3.0)
    assert len(elimination.running) == 1
    assert sorted(ran) == [SAMPLES // 2, SAMPLES]


def test_few_samples_are_all_run() -> None:
    elimination, ran = elimination_of([0.5, 0.1], samples=3)
    assert elimination.running == [1]
    assert ran == [3, 3]


def test_a_candidate_that_computes_nan_never_wins() -> None:
    elimination, _ = elimination_of([float("nan"), 0.1])
    assert elimination.running == [1]


def test_a_single_candidate_and_none_need_no_race() -> None:
    elimination, ran = elimination_of([0.1])
    assert elimination.running == [0] and ran == [SAMPLES]
    assert elimination_of([])[0].running == []
