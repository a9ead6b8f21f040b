"""Which candidate is kept, and how long the others are run."""

from __future__ import annotations

import numpy as np

from onnxmpq.sensitivity.divergence import Divergence, make_view
from onnxmpq.sensitivity.race import FIRST_LOOK, Race

SAMPLES = 64


def race_of(levels: list[float], samples: int = SAMPLES, spread: float = 0.1) -> tuple[Race, list[int]]:
    """A race on one output, its candidates' changes of these sizes, and how many samples each was run on."""
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(samples, 12)).astype(np.float32)
    view = make_view("y", "values", list(reference[:, None]), 64, 0)
    race = Race(Divergence((view,)), reference, len(levels))
    ran = [0] * len(levels)
    for sample in range(samples):
        for number in race.running:
            race.changes[number][sample] = levels[number] * (1.0 + spread * generator.normal(size=12))
            ran[number] += 1
        race.look(sample + 1)
    return race, ran


def test_a_clearly_worse_candidate_stops_at_the_first_look() -> None:
    race, ran = race_of([0.5, 0.1, 0.4])
    assert race.running == [1]
    assert ran == [FIRST_LOOK, SAMPLES, FIRST_LOOK]


def test_candidates_that_are_hard_to_tell_apart_run_on_half_of_the_samples() -> None:
    race, ran = race_of([0.1, 0.1], spread=3.0)
    assert len(race.running) == 1
    assert sorted(ran) == [SAMPLES // 2, SAMPLES]


def test_few_samples_are_all_run() -> None:
    race, ran = race_of([0.5, 0.1], samples=3)
    assert race.running == [1]
    assert ran == [3, 3]


def test_a_candidate_that_computes_nan_never_wins() -> None:
    race, _ = race_of([float("nan"), 0.1])
    assert race.running == [1]


def test_a_single_candidate_and_none_need_no_race() -> None:
    race, ran = race_of([0.1])
    assert race.running == [0] and ran == [SAMPLES]
    assert race_of([])[0].running == []
