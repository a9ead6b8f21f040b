"""Finish: the plan that the closed loop keeps, its weights rounded once more, and what is left of the quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.allocate import Budgets, Problem
from onnxmpq.cache import Cache
from onnxmpq.closed_loop import Keeps, Outcome, Refiner, Workbench, close_the_loop
from onnxmpq.comparison import MetricScores, Validation, compare, time_side_by_side
from onnxmpq.cost.judge import Judge
from onnxmpq.cost.measure import Effort
from onnxmpq.errors import BudgetError, CrashError
from onnxmpq.feeds import read_labels
from onnxmpq.feeds.types import Feeds
from onnxmpq.floors import Floors, Metric, MetricFunction
from onnxmpq.isolation.trial import single, tried
from onnxmpq.progress import Progress
from onnxmpq.runtime import SessionSettings
from onnxmpq.sensitivity import Effects, OutputKind
from onnxmpq.stages.refine import make_refiner
from onnxmpq.stages.samples import Samples
from onnxmpq.stages.weights import compensate_plan, plain_weights, rebuilt
from onnxmpq.weights import Compensated, Techniques

FLOOR_ATTEMPTS = 4
LESS_EFFECT = 0.6  # of the last attempt's, where the held-out samples say that it does not keep a floor


@dataclass(frozen=True)
class Labelled:
    """How a metric is taken. labels: path as for `read_labels`, or None for a metric that needs none.

    ranks: True where the user chose the metric; it then decides between plans, before their divergence does.
    """

    metric: Metric
    labels: str | None
    ranks: bool

    @classmethod
    def of(cls, labels: str | Path | None, metric: str | MetricFunction | None) -> Labelled | None:
        """None where neither is given."""
        if labels is None and metric is None:
            return None
        return cls(Metric.named(metric), None if labels is None else str(labels), metric is not None)

    def try_out(self, source: Any, data: Samples) -> None:
        """Take the metric of the original once, so that wrong labels or a metric that fails show before the work."""
        for feeds in (data.calibration, data.validation):
            self.score(source, feeds, SessionSettings())

    def score(self, model: Any, feeds: Feeds, settings: SessionSettings) -> float:
        labels = None if self.labels is None else read_labels(self.labels, feeds)
        return self.metric.score(model, feeds, labels, settings)


@dataclass(frozen=True)
class Examiner:
    """Compares rewritten models with the original. source: path or proto of the original."""

    source: Any
    kinds: Mapping[str, OutputKind]
    settings: SessionSettings
    labelled: Labelled | None

    def quality(self, proto: onnx.ModelProto, feeds: Feeds, held_out: bool, *, unfused: bool) -> Validation:
        """Quality on these samples, without timing."""
        found = compare(
            self.source, proto, feeds, self.kinds, settings=self.settings, held_out=held_out, unfused=unfused
        )
        return found if self.labelled is None else replace(found, metric=self._metric(proto, feeds))

    def _metric(self, proto: onnx.ModelProto, feeds: Feeds) -> MetricScores:
        assert self.labelled is not None
        before, after = (self.labelled.score(m, feeds, self.settings) for m in (self.source, proto))
        return MetricScores(self.labelled.metric.name, before, after)


@dataclass(frozen=True)
class Job:
    """All that the last stages work on."""

    problem: Problem
    budgets: Budgets
    floors: Floors
    bench: Workbench
    judge: Judge
    data: Samples
    effects: Effects
    techniques: Techniques
    examiner: Examiner
    effort: Effort
    seed: int
    progress: Progress
    cache: Cache


@dataclass(frozen=True)
class Shipped:
    """The plan that was kept, its weights, and its quality on held-out samples."""

    outcome: Outcome
    compensated: Compensated
    validation: Validation


def finish(job: Job) -> Shipped:
    """Close the loop within the budgets and above the floors. Raises BudgetError or NothingFasterError."""
    job.floors.require_classes(job.effects.divergence.kinds.values())
    if job.floors.empty or not (job.budgets.fastest or job.budgets.smallest):
        shipped = _ship(job, _close(job, refiner=_refiner(job)))
        if unmet := job.floors.unmet(shipped.validation):
            raise BudgetError(
                f"within the budgets the quality floor cannot be kept: {', '.join(unmet)} (on "
                f"{shipped.validation.samples} samples); raise the budgets, or give the floor alone"
            )
        return shipped
    return _above_floors(job)


def _close(
    job: Job, *, refiner: Refiner | None = None, keeps: Keeps | None = None, most_effect: float | None = None
) -> Outcome:
    return close_the_loop(
        job.problem,
        job.budgets,
        job.bench,
        job.judge,
        job.bench.model.source_bytes,
        job.progress,
        refiner=refiner,
        keeps=keeps,
        most_effect=most_effect,
        trial=lambda proto: _try_out(job, proto),
    )


def _try_out(job: Job, proto: onnx.ModelProto) -> None:
    """Run a model on all calibration samples, as it is measured and as a default session. Raises ModelError."""
    tried(proto, single(job.data.calibration), job.examiner.settings, limit_s=job.data.limit_s)


def _refiner(job: Job) -> Refiner | None:
    """By the user's metric, where one was chosen, and by divergence."""
    labelled, settings, feeds = job.examiner.labelled, job.examiner.settings, job.data.deciding

    def score(proto: onnx.ModelProto) -> float:
        assert labelled is not None
        return labelled.score(proto, feeds, settings)

    ranks = labelled is not None and labelled.ranks
    return make_refiner(job.bench.model, job.effects, job.data, job.seed, job.progress, score if ranks else None)


def _above_floors(job: Job) -> Shipped:
    """The fastest or smallest plan that keeps the floors, also on the held-out samples."""
    most_effect: float | None = None
    missed: list[str] = []

    def keeps(proto: onnx.ModelProto) -> list[str]:
        quality = job.examiner.quality(proto, job.data.calibration, False, unfused=False)
        return job.floors.unmet(quality)

    for _ in range(FLOOR_ATTEMPTS):
        outcome = _close(job, keeps=keeps, most_effect=most_effect)
        shipped = _ship(job, outcome)
        missed = job.floors.unmet(shipped.validation)
        if not missed:
            return shipped
        job.progress.say(f"not kept on held-out samples: {', '.join(missed)}; planning with less")
        most_effect = outcome.kept.effect * LESS_EFFECT
    raise BudgetError(
        f"the quality floor is kept on calibration samples, but not on held-out ones: {', '.join(missed)}; "
        "give more samples, or a lower floor"
    )


def _ship(job: Job, outcome: Outcome) -> Shipped:
    compensated = compensate_plan(job.bench, outcome, job.data, job.effects, job.techniques, job.progress, job.cache)
    again = rebuilt(job.bench, outcome, compensated)
    try:
        _try_out(job, again.proto)
        outcome = again
    except CrashError as error:  # with other weights in the same graph, which ran
        job.progress.warn(f"second rounding is left out: {error}")
        compensated = replace(compensated, weights=plain_weights(job.bench, outcome), biases={}, kept=())
    with job.progress.stage("validating", 0):
        quality = job.examiner.quality(outcome.proto, job.data.validation, job.data.held_out, unfused=True)
        if quality.emulated:
            return Shipped(outcome, compensated, quality)
        longer = replace(job.effort, seconds=2 * job.effort.seconds, rounds=2 * job.effort.rounds)
        settings, source = job.examiner.settings, job.examiner.source
        timing = time_side_by_side(source, outcome.proto, job.data.calibration, settings, longer)
    return Shipped(outcome, compensated, replace(quality, timing=timing))
