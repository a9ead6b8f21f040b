"""Plans of less predicted divergence within the same limits: the exact solver on effects beside the incumbent plan.

Around a plan every decision has another effect than alone (`Predictor.around`). The MILP with those effects, with all
transitions and limits as before, proposes the next plan; it becomes the incumbent where its predicted divergence is
lower. Where it overshoots, effects half way back to the single ones are tried.
"""

from __future__ import annotations

from dataclasses import replace

from onnxmpq.allocate.milp import WORK, solve
from onnxmpq.allocate.problem import Limits, Problem, Solution
from onnxmpq.allocate.superpose import Predictor

ROUNDS = 4
DAMPINGS = (1.0, 0.5)
LEAST_GAIN = 1e-3  # relative; smaller ones are not worth another plan
WORK_SHARE = 0.25  # of what the solver may take for a plan of its own


def refine(predictor: Predictor, start: Solution, limits: Limits) -> list[Solution]:
    """Plans after `start`, each of less predicted divergence than the one before; none where nothing is gained."""
    found: list[Solution] = []
    if predictor.trust == 0.0:
        return found
    incumbent = start
    for _ in range(ROUNDS):
        better = _improved(predictor, incumbent, limits)
        if better is None:
            break
        found.append(better)
        incumbent = better
    return found


def _improved(predictor: Predictor, incumbent: Solution, limits: Limits) -> Solution | None:
    beside = predictor.around(incumbent.assignment)
    to_beat = predictor.divergence(incumbent.assignment) * (1.0 - LEAST_GAIN)
    for share in DAMPINGS:
        problem = _between(predictor.problem, beside, share)
        solution = solve(problem, "effect", limits, work=int(WORK_SHARE * WORK))
        if solution is not None and predictor.divergence(solution.assignment) < to_beat:
            return solution
    return None


def _between(alone: Problem, beside: Problem, share: float) -> Problem:
    """Effects part of the way from the single ones to those beside a plan."""

    def mixed(one: float, other: float) -> float:
        return one + share * (other - one)

    options = {
        region: tuple(
            replace(a, effect=mixed(a.effect, b.effect)) for a, b in zip(row, beside.options[region], strict=True)
        )
        for region, row in alone.options.items()
    }
    activations = {t: mixed(effect, beside.activations[t]) for t, effect in alone.activations.items()}
    return replace(alone, options=options, activations=activations)
