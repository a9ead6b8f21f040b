"""What effects foretell, brought to the level of samples that rounding has not seen.

Rounding fits weights to its samples, and effects are measured on those: what they add up to is true there, and too
little elsewhere. A few random plans, run on both, say by how much. It is one factor for all effects: which plan is the
better one does not hang on it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.allocate import Problem
from onnxmpq.allocate.superpose import random_plan
from onnxmpq.closed_loop import Workbench
from onnxmpq.errors import CrashError
from onnxmpq.progress import Progress
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, Referee
from onnxmpq.stages.samples import Samples
from onnxmpq.stages.threads import judging

PLANS = 6
DRAWN = 12  # the lesser half of them is run: in the other a layer may ruin the model
FEWEST_SAMPLES = 8


def at_unseen_level(
    problem: Problem, effects: Effects, bench: Workbench, data: Samples, seed: int, progress: Progress
) -> Effects:
    """The effects, times the median ratio of what random plans diverge on samples that decide to what they do on those
    of rounding; as they are where fewer than 8 decide."""
    plans = modest_plans(problem, seed)
    if len(data.deciding) < FEWEST_SAMPLES or not plans:
        return effects
    settings = judging(exact_integers=bench.exact_integers)
    seen, unseen = (
        Referee.of(bench.model, effects.pooled, feeds, settings) for feeds in (data.rounding, data.deciding)
    )
    ratios = []
    with progress.stage("trying plans on samples that rounding has not seen", len(plans)) as tick:
        for plan in plans:
            proto = bench.build(plan)
            try:
                before = seen.loss(proto)
                if before > 0.0:  # a plan that changes nothing there says nothing
                    ratios.append(unseen.loss(proto) / before)
            except CrashError as error:
                progress.warn(f"{error}; going on with other plans")
            tick(1)
    if not ratios:
        return effects
    level = float(np.median(ratios))
    progress.say(f"divergence on samples that rounding has not seen: {level:.2f} times that on those it has")
    divergence = effects.divergence
    return replace(effects, divergence=replace(divergence, scale=divergence.scale * level))


def modest_plans(problem: Problem, seed: int) -> list[dict[str, Scheme]]:
    """Six plans with a random scheme for a random share of the regions, those of least effect among twelve; fewer where
    few have any."""
    generator = np.random.default_rng(seed)
    drawn = [random_plan(problem, generator) for _ in range(DRAWN)]
    return sorted((p for p in drawn if problem.effect(p) > 0), key=problem.effect)[:PLANS]
