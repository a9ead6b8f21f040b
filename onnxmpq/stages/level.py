"""What effects foretell, brought to the level of samples that rounding has not seen.

Rounding fits weights to its samples, and effects are measured on those: what they add up to is true there, and too
little elsewhere. A few random plans, run on the samples that decide, say by how much. It is one factor for all
effects: which plan is the better one does not hang on it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.allocate import Problem
from onnxmpq.allocate.superpose import random_plan
from onnxmpq.closed_loop import Workbench
from onnxmpq.feeds.types import Feeds
from onnxmpq.progress import Progress
from onnxmpq.runtime import SessionSettings
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects
from onnxmpq.stages.threads import workers
from onnxmpq.weights import Referee

PLANS = 8
DRAWN = 16  # the lesser half of them is run: in the other a layer may ruin the model
FEWEST_SAMPLES = 8


def at_unseen_level(
    problem: Problem, effects: Effects, bench: Workbench, unseen: Feeds, seed: int, progress: Progress
) -> Effects:
    """The effects, times the median ratio of true to predicted divergence of random plans on samples that rounding has
    not seen; as they are where there are fewer than 8 of those."""
    plans = modest_plans(problem, seed)
    if len(unseen) < FEWEST_SAMPLES or not plans:
        return effects
    referee = Referee.of(bench.model, effects.pooled, unseen, SessionSettings(threads=workers()))
    ratios = []
    with progress.stage(f"trying plans on {len(unseen)} other samples", len(plans)) as tick:
        for plan in plans:
            ratios.append(referee.loss(bench.build(plan)) / problem.effect(plan))
            tick(1)
    level = float(np.median(ratios))
    progress.say(f"divergence on samples that rounding has not seen: {level:.2f} times that on those it has")
    divergence = effects.divergence
    return replace(effects, divergence=replace(divergence, scale=divergence.scale * level))


def modest_plans(problem: Problem, seed: int) -> list[dict[str, Scheme]]:
    """Eight plans with a random scheme in every region, those of least effect among 16; fewer where few have any."""
    generator = np.random.default_rng(seed)
    drawn = [random_plan(problem, generator, 1.0) for _ in range(DRAWN)]
    return sorted((p for p in drawn if problem.effect(p) > 0), key=problem.effect)[:PLANS]
