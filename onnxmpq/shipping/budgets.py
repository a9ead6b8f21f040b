"""Plans within the budgets, by the closing measurement.

Where that says no, or a plan loses far more than was predicted, the loop goes on with what was learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx

from onnxmpq.allocate import Budgets
from onnxmpq.closed_loop import (
    FACTOR,
    NOISE,
    Loop,
    Outcome,
    Refiner,
    closest,
    make_refiner,
    measure_extremes,
    on_original_kernels,
    out_of_reach,
    reach,
    suspects,
)
from onnxmpq.errors import BudgetError, NothingFasterError
from onnxmpq.progress import CHOOSING
from onnxmpq.runtimes import holds_fp8
from onnxmpq.sensitivity import Evaluator
from onnxmpq.shipping.job import Job, Shipped
from onnxmpq.shipping.quality import Quality
from onnxmpq.shipping.ship import Shipper

INVESTIGATIONS = 3  # of plans that lose far more than predicted
WORTH_A_LOOK = 1e-3  # divergence below which nothing is investigated: no verdict depends on it
FEWEST_SAMPLES = 8  # on which a plan's divergence is compared with its prediction
INVESTIGATED_SAMPLES = 16
CLOSINGS = 5  # plans that are shipped and measured to the end before the budget is given up


class WithinBudgets:
    """The loop of a job, and what it ships."""

    def __init__(self, job: Job, quality: Quality) -> None:
        self.job, self.quality, self.progress = job, quality, job.context.progress
        self.shipper = Shipper(job, quality)
        self.loop = Loop(
            job.problem,
            job.budgets,
            job.bench,
            job.costs,
            self.progress,
            _refiner(job),
            self.shipper.try_out,
        )
        self._investigations = 0

    def reach(self) -> Outcome:
        """A plan within the budgets. Raises BudgetError and NothingFasterError, unless the best effort will do."""
        try:
            return reach(self.loop)
        except BudgetError as error:
            if not self.job.best_effort:
                raise
            self.progress.say(f"best effort: {error}")
            return closest(self.loop)
        except NothingFasterError as error:
            if not self.job.best_effort:
                raise
            self.progress.say(f"best effort, as fast as the original and smaller: {error}")
            return self._as_fast_and_smaller()

    def _as_fast_and_smaller(self) -> Outcome:
        """The smallest good plan on the original's kernels. Raises BudgetError where there is none."""
        self.loop.retarget(Budgets(smallest=True))
        try:
            outcome = reach(self.loop, self.quality.on_calibration(self.quality.worse_than("good")))
        finally:
            self.loop.retarget(self.job.budgets)
        return replace(outcome, met=False)

    def settled(self, plan: Callable[[], Outcome]) -> Shipped:
        """A plan whose closing measurement agrees that it holds the budgets. Raises BudgetError."""
        for _ in range(CLOSINGS):
            with self.progress.stage(CHOOSING, 0):
                outcome = plan()
                while self._learned_effects(outcome):
                    outcome = plan()
            shipped = self.shipper.ship(outcome, self.loop)
            if self._confirmed(shipped):
                return shipped
            taken, asked = shipped.outcome.kept.measured_s, self.loop.targets.latency_s
            self.progress.say(
                f"closing measurement: {taken * 1e3:.3f} ms, more than the {asked * 1e3:.3f} ms allowed; planning again"
            )
            if self.loop.targets.asked_for_latency:
                self.loop.aim_lower(taken)
        if self.job.best_effort:
            return replace(shipped, outcome=self.judged(shipped.outcome))
        measure_extremes(self.loop)
        if any(map(self.loop.fits, self.loop.rounds)) and self._confirmed(
            shipped := self.shipper.ship(plan(), self.loop)
        ):
            return shipped
        raise BudgetError(out_of_reach(self.loop))

    def _confirmed(self, shipped: Shipped) -> bool:
        outcome, timing = shipped.outcome, shipped.validation.timing
        if timing is None or not self.job.costs.measured or not outcome.met:
            return True
        if self.loop.targets.asked_for_latency:
            return self.loop.meets(outcome.kept)
        if self.loop.budgets.fastest:
            return outcome.kept.measured_s < self.loop.faster_s
        return on_original_kernels(outcome.assignment) or timing.ratio_low <= 1.0 + NOISE

    def judged(self, outcome: Outcome) -> Outcome:
        """The outcome, met if its last measurement is within the budgets."""
        return replace(outcome, met=self.loop.meets(outcome.kept))

    def _learned_effects(self, outcome: Outcome) -> bool:
        """Correct the effects of kernels that make a plan lose far more than predicted. True if any was corrected."""
        job, settings = self.job, self.job.quality_of.judging
        feeds = job.data.deciding if len(job.data.deciding) >= FEWEST_SAMPLES else job.data.calibration
        feeds = feeds.take(list(range(min(INVESTIGATED_SAMPLES, len(feeds)))))
        predicted = self.loop.problem.effect(outcome.assignment)
        if holds_fp8(outcome.proto) or self._investigations == INVESTIGATIONS:
            return False
        evaluator = Evaluator.of(job.bench.model, job.effects.pooled, feeds, settings, job.context)
        measured = evaluator.loss(outcome.proto)
        if measured <= max(FACTOR * predicted, WORTH_A_LOOK):
            return False
        self._investigations += 1
        self.progress.say(f"the plan diverges by {measured:.3g}, predicted {predicted:.3g}: looking for the regions")
        found = suspects(job.bench, outcome.assignment, job.effects, feeds, settings)
        for suspect in found:
            where = "in the kernel of" if suspect.in_kernel else "in the graph of"
            self.progress.warn(
                f"{where} {suspect.region}: alone it diverges by {suspect.measured:.3g}, predicted "
                f"{suspect.predicted:.3g}, {suspect.unfused:.3g} without the runtime's optimisations"
            )
        kernels = {s.region: outcome.assignment[s.region].kernel for s in found}
        self.loop.correct_effects({(s.region, kernels[s.region]): s.measured - s.predicted for s in found})
        return bool(found)


def _refiner(job: Job) -> Refiner | None:
    """By the user's metric, where one was chosen, and by divergence."""
    labelled, settings, feeds = job.quality_of.labelled, job.quality_of.judging, job.data.deciding

    def score(proto: onnx.ModelProto) -> float:
        assert labelled is not None
        return labelled.score(proto, feeds, settings)

    ranks = labelled is not None and labelled.ranks
    return make_refiner(job.bench, job.effects, job.data, job.context, score if ranks else None)
