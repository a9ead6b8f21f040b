"""Effects scaled to samples that rounding has not seen.

Rounding fits weights to its samples, and effects are measured on those, so their sums are right there and too small
elsewhere. A few random plans are run on both to find the factor. It is the same for all effects and does not change
which of two plans is better.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmpq.allocate.problem import Problem
from onnxmpq.allocate.superpose import random_plan
from onnxmpq.context import Context
from onnxmpq.errors import CrashError
from onnxmpq.progress import UNSEEN
from onnxmpq.samples import Samples
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, Evaluator
from onnxmpq.workbench import Workbench

PLANS = 6
DRAWN = 12  # those of less effect are run: in others one layer may ruin the model
FEWEST_SAMPLES = 8


def at_unseen_level(problem: Problem, effects: Effects, bench: Workbench, data: Samples, context: Context) -> Effects:
    """The effects times the median ratio of the divergence of random plans on the deciding samples to that on the
    samples of rounding; unchanged with fewer than 8 deciding samples."""
    plans = modest_plans(problem, context.seed)
    if len(data.deciding) < FEWEST_SAMPLES or not plans:
        return effects
    settings = context.quality_settings(exact_integers=bench.exact_integers)
    ratios = []
    with context.progress.stage(UNSEEN, len(plans)) as tick:
        of_samples = data.rounding, data.deciding
        seen, unseen = (Evaluator.of(bench.model, effects.pooled, f, settings, context) for f in of_samples)
        for plan in plans:
            proto = bench.build(plan)
            try:
                before = seen.loss(proto)
                if before > 0.0:  # a plan that changes nothing there says nothing
                    ratios.append(unseen.loss(proto) / before)
            except CrashError as error:
                context.progress.warn(f"{error}; going on with other plans")
            tick(1)
    if not ratios:
        return effects
    level = float(np.median(ratios))
    context.progress.detail(f"divergence on samples that rounding has not seen: {level:.2f} times that on the others")
    divergence = effects.divergence
    return replace(effects, divergence=replace(divergence, scale=divergence.scale * level))


def modest_plans(problem: Problem, seed: int) -> list[dict[str, Scheme]]:
    """Six plans with a random scheme for a random share of the regions, those of least effect among twelve; fewer where
    few have any."""
    generator = np.random.default_rng(seed)
    drawn = [random_plan(problem, generator) for _ in range(DRAWN)]
    return sorted((p for p in drawn if problem.effect(p) > 0), key=problem.effect)[:PLANS]
