"""Refinement: plans as fast and as small as the solver's, judged by running them on samples that took no part.

Neither rounding nor, where there are enough samples, effects have seen them (`Samples.deciding`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmpq.allocate import Limits, Predictor, Problem, Solution, refine, solve
from onnxmpq.context import Context
from onnxmpq.samples import Samples
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, Evaluator
from onnxmpq.workbench import Workbench

FEWEST_DECIDING = 8  # samples, to tell two plans apart
MOST_PROPOSALS = 2  # each is built, measured and run


@dataclass(frozen=True)
class SampledRefiner:
    """Proposes plans by superposed effects and prefers what does better on the evaluator's samples (`Refiner`).

    score: the user's metric.
    """

    effects: Effects
    evaluator: Evaluator
    context: Context
    score: Callable[[onnx.ModelProto], float] | None = None

    def proposals(self, problem: Problem, assignment: Mapping[str, Scheme], limits: Limits) -> Sequence[Solution]:
        """The least separable effect within the limits, then plans of less superposed divergence, the best first."""
        predictor = Predictor.fitted(problem, self.effects, self.context.seed)
        start = solve(problem, "effect", limits)
        if start is None:
            return []
        better = refine(predictor, start, limits)
        terms = f"weighted {predictor.trust:.0%}" if predictor.trust else "ignored (not reliable on these samples)"
        self.context.progress.detail(
            f"interaction terms {terms}: {len(better)} plans of lower predicted divergence than without them"
        )
        return [*better[::-1][: MOST_PROPOSALS - 1], start]

    def prefers(self, challenger: onnx.ModelProto, incumbent: onnx.ModelProto) -> bool:
        """True if the user's metric is better or, without a metric or at equal values, if the mean divergence is lower
        by more than its standard error over the samples."""
        if self.score is not None and (better := self.score(challenger) - self.score(incumbent)):
            return better > 0
        gain = self.evaluator.losses(incumbent) - self.evaluator.losses(challenger)
        return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))


def make_refiner(
    bench: Workbench,
    effects: Effects,
    data: Samples,
    context: Context,
    score: Callable[[onnx.ModelProto], float] | None = None,
) -> SampledRefiner | None:
    """None where too few samples are held back for it."""
    deciding = data.deciding
    if len(deciding) < FEWEST_DECIDING:
        return None
    settings = context.quality_settings(exact_integers=bench.exact_integers)
    evaluator = Evaluator.of(bench.model, effects.pooled, deciding, settings, context)
    return SampledRefiner(effects, evaluator, context, score)
