"""Finish: close the loop, round the plan's weights once more, measure what is handed out, and judge its quality.

The closing measurement decides whether a budget is met, and held-out samples decide whether the quality will do. Where
either says no, the loop goes on with what was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.allocate import Budgets, Problem
from onnxmpq.cache import Cache
from onnxmpq.closed_loop import (
    Loop,
    Outcome,
    Refiner,
    Workbench,
    closest,
    measure_extremes,
    on_original_kernels,
    reach,
)
from onnxmpq.closed_loop.loop import NOISE
from onnxmpq.closed_loop.reach import option, out_of_reach
from onnxmpq.closed_loop.suspects import FACTOR, suspects
from onnxmpq.comparison import MetricScores, Reference, Timing, Validation, time_side_by_side
from onnxmpq.cost.judge import Judge
from onnxmpq.cost.measure import Effort
from onnxmpq.errors import (
    AlreadyMetError,
    BudgetError,
    DamagedGraphError,
    ModelError,
    NothingFasterError,
    OnnxmpqError,
    QualityError,
)
from onnxmpq.feeds import read_labels
from onnxmpq.feeds.types import Feeds
from onnxmpq.floors import Floors, Metric, MetricFunction
from onnxmpq.integrity import structure_faults
from onnxmpq.isolation.trial import single, tried
from onnxmpq.lint import lint_export
from onnxmpq.progress import Progress
from onnxmpq.runtime import SessionSettings, holds_fp8
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, OutputKind, Referee
from onnxmpq.stages.refine import make_refiner
from onnxmpq.stages.samples import Samples
from onnxmpq.stages.weights import compensate_plan, plain_weights, rebuilt
from onnxmpq.verdict import Level, Verdict, judge
from onnxmpq.weights import Compensated, Techniques

FLOOR_ATTEMPTS = 4
LESS_EFFECT = 0.6  # of the last attempt's, where the held-out samples say that it does not keep a floor
INVESTIGATIONS = 3  # of plans that lose far more than predicted
WORTH_A_LOOK = 1e-3  # divergence below which nothing is investigated: no verdict hangs on it
FEWEST_SAMPLES = 8  # on which a plan's divergence is compared with its prediction
INVESTIGATED_SAMPLES = 16
CLOSINGS = 5  # plans that are shipped and measured to the end before the budget is given up
BETTER: dict[Level, tuple[Level, ...]] = {"bad": ("good", "noticeable"), "noticeable": ("good",)}


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
    """Compares rewritten models with the original. source: path or proto of the original.

    settings: of sessions that are timed, as the user will open them. exact_integers: of those that measure quality.
    references: runs of the original, by what they ran on.
    """

    source: Any
    kinds: Mapping[str, OutputKind]
    settings: SessionSettings
    labelled: Labelled | None
    exact_integers: bool = False
    references: dict[int, tuple[Feeds, Reference]] = field(default_factory=dict)

    @property
    def judging(self) -> SessionSettings:
        """Settings of sessions that measure quality."""
        return replace(self.settings, exact_integers=self.exact_integers)

    def quality(self, proto: onnx.ModelProto, feeds: Feeds, held_out: bool, *, unfused: bool) -> Validation:
        """Quality on these samples, without timing."""
        if id(feeds) not in self.references:
            self.references[id(feeds)] = feeds, Reference.of(self.source, feeds, self.judging)
        _, reference = self.references[id(feeds)]
        found = reference.compare(proto, self.kinds, held_out=held_out, unfused=unfused)
        return found if self.labelled is None else replace(found, metric=self._metric(proto, feeds))

    def _metric(self, proto: onnx.ModelProto, feeds: Feeds) -> MetricScores:
        assert self.labelled is not None
        before, after = (self.labelled.score(m, feeds, self.judging) for m in (self.source, proto))
        return MetricScores(self.labelled.metric.name, before, after)


@dataclass(frozen=True)
class Job:
    """All that the last stages work on.

    guard: whether a bad result is refused where the user gave no floor. best_effort: whether the closest plan is handed
    out where a budget cannot be met. int8: the plan of int8 wherever it is offered, which `fastest` is compared with.
    """

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
    guard: bool = True
    best_effort: bool = False
    int8: Mapping[str, Scheme] = field(default_factory=dict)


@dataclass(frozen=True)
class Shipped:
    """The plan that was kept, its weights, its quality on held-out samples and what that is worth."""

    outcome: Outcome
    compensated: Compensated
    validation: Validation
    verdict: Verdict


def finish(job: Job) -> Shipped:
    """The plan within the budgets and above the floors, as measured last.

    Raises BudgetError, NothingFasterError, QualityError, or AlreadyMetError where nothing needs to be quantized.
    """
    job.floors.require_classes(job.effects.divergence.kinds.values())
    shipped = _Finish(job).run()
    if not shipped.outcome.assignment:
        raise AlreadyMetError("the budgets are met without quantizing anything; keep the original, or ask for less")
    return shipped


class _Finish:
    def __init__(self, job: Job) -> None:
        self.job, self.progress = job, job.progress
        self.loop = Loop(
            job.problem,
            job.budgets,
            job.bench,
            job.judge,
            job.bench.model.source_bytes,
            job.progress,
            _refiner(job),
            self._try_out,
        )
        self._int8: dict[bool, Validation | None] = {}  # by whether the samples are held-out ones
        self._investigations = 0

    def run(self) -> Shipped:
        floors, budgets = self.job.floors, self.job.budgets
        if floors.empty:
            return self._guarded()
        if budgets.fastest or budgets.smallest:
            return self._above(floors.unmet, "the quality floor")
        return self._within_above()

    # ---- quality -------------------------------------------------------------------------------

    def _guarded(self) -> Shipped:
        """Within the budgets; `fastest` prefers the fastest plan that is good. Raises QualityError for a bad result."""
        shipped = self._settled(self._reach)
        verdict = shipped.verdict
        if not self.job.guard or verdict.level not in BETTER:
            return shipped
        self.progress.say(f"quality is {verdict.level}: {'; '.join(verdict.reasons)}")
        for level in BETTER[verdict.level] if self.job.budgets.fastest else ():
            self.progress.say(f"looking for the fastest plan whose quality is {level}")
            try:
                return self._above(self._worse_than(level), f"quality that is {level}")
            except (BudgetError, NothingFasterError) as error:
                self.progress.say(f"there is none: {error}")
        if verdict.level == "bad":
            raise QualityError(f"the result would be bad: {'; '.join(verdict.reasons)}; {self._way_out()}")
        return shipped

    def _worse_than(self, level: Level) -> Callable[[Validation], list[str]]:
        """What keeps a quality from being of this level."""
        allowed = {"good": ("good", "unknown"), "noticeable": ("good", "noticeable", "unknown")}[level]

        def unmet(quality: Validation) -> list[str]:
            verdict = self._verdict(quality)
            return [] if verdict.level in allowed else list(verdict.reasons)

        return unmet

    def _verdict(self, quality: Validation) -> Verdict:
        return judge(quality, int8=self._int8_everywhere(quality), synthetic=self.job.data.calibration.synthetic)

    def _int8_everywhere(self, quality: Validation) -> Validation | None:
        """Quality of int8 everywhere on the same samples, where `fastest` is compared with it."""
        job, held_out = self.job, quality.held_out
        if not job.budgets.fastest or not job.int8 or quality.emulated:
            return None
        if held_out not in self._int8:
            feeds = job.data.validation if held_out or not job.data.held_out else job.data.calibration
            try:
                self._int8[held_out] = job.examiner.quality(job.bench.build(job.int8), feeds, held_out, unfused=False)
            except ModelError as error:
                self.progress.say(f"int8 everywhere does not run here, nothing is compared with it: {error}")
                self._int8[held_out] = None
        return self._int8[held_out]

    def _learned_effects(self, outcome: Outcome) -> bool:
        """Where a plan loses far more than predicted: learn which kernels do, so that the next plan knows. True where
        anything was learned."""
        job, settings = self.job, self.job.examiner.judging
        feeds = job.data.deciding if len(job.data.deciding) >= FEWEST_SAMPLES else job.data.calibration
        feeds = feeds.take(list(range(min(INVESTIGATED_SAMPLES, len(feeds)))))
        predicted = self.loop.problem.effect(outcome.assignment)
        if holds_fp8(outcome.proto) or self._investigations == INVESTIGATIONS:
            return False
        measured = Referee.of(job.bench.model, job.effects.pooled, feeds, settings).loss(outcome.proto)
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

    def _way_out(self) -> str:
        """The nearest budget whose result is not bad, in words."""
        budgets, loop = self.job.budgets, self.loop
        if budgets.fastest:
            return "no plan that is faster than the original is better; --no-guard writes it all the same"
        if not (budgets.latency or budgets.size or budgets.smallest):
            return "give a larger --energy; --no-guard writes it all the same"
        name = "latency" if budgets.latency else "size"
        loop.retarget(replace(budgets, latency=None, fastest=True) if budgets.latency else Budgets(smallest=True))
        try:
            nearest = self._above(self._worse_than("noticeable"), "quality that is not bad").outcome.kept
        except (BudgetError, NothingFasterError):
            return f"no {name} below the original's gives a better one; --no-guard writes it all the same"
        finally:
            loop.retarget(budgets)
        return f"{option(loop, name, nearest)} gives one that is not; --no-guard writes this one all the same"

    def _on_calibration(self, unmet: Callable[[Validation], list[str]]) -> Callable[[onnx.ModelProto], list[str]]:
        examiner, feeds = self.job.examiner, self.job.data.calibration
        return lambda proto: unmet(examiner.quality(proto, feeds, False, unfused=False))

    def _above(self, unmet: Callable[[Validation], list[str]], what: str) -> Shipped:
        """The fastest or smallest plan that keeps a quality, also on the held-out samples. Raises BudgetError."""
        most_effect: float | None = None
        missed: list[str] = []
        keeps = self._on_calibration(unmet)
        for _ in range(FLOOR_ATTEMPTS):
            limit = most_effect
            shipped = self._settled(lambda: reach(self.loop, keeps, limit))  # noqa: B023 (called in this turn only)
            missed = unmet(shipped.validation)
            if not missed:
                return shipped
            self.progress.say(f"not kept on held-out samples: {', '.join(missed)}; planning with less")
            most_effect = shipped.outcome.kept.effect * LESS_EFFECT
        raise BudgetError(
            f"{what} is kept on calibration samples, but not on held-out ones: {', '.join(missed)}; "
            "give more samples, or a lower floor"
        )

    def _within_above(self) -> Shipped:
        """Within budgets and above floors; with `best_effort` above the floors, if need be beyond the budgets."""
        job = self.job
        try:
            shipped = self._settled(lambda: reach(self.loop))
            unmet = job.floors.unmet(shipped.validation)
            if not unmet:
                return shipped
            raise BudgetError(
                f"within the budgets the quality floor cannot be kept: {', '.join(unmet)} (on "
                f"{shipped.validation.samples} samples); raise the budgets, give the floor alone, or add --best-effort"
            )
        except BudgetError:
            if not job.best_effort:
                raise
        self.progress.say("best effort: the floor is kept, the budgets are not")
        return self._above_only()

    def _above_only(self) -> Shipped:
        """Above the floors, beyond the budgets: the fastest plan where a latency was asked for and one is faster than
        the original, else the smallest."""
        floors, budgets = self.job.floors, self.job.budgets
        relaxed = [Budgets(fastest=True)] if budgets.latency else []
        try:
            for goal in (*relaxed, Budgets(smallest=True)):
                self.loop.retarget(goal)
                try:
                    shipped = self._above(floors.unmet, "the quality floor")
                    break
                except (BudgetError, NothingFasterError):
                    if goal.smallest:
                        raise
        finally:
            self.loop.retarget(budgets)
        return replace(shipped, outcome=self._judged(shipped.outcome))

    # ---- budgets -------------------------------------------------------------------------------

    def _reach(self) -> Outcome:
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
            outcome = reach(self.loop, self._on_calibration(self._worse_than("good")))
        finally:
            self.loop.retarget(self.job.budgets)
        return replace(outcome, met=False)

    def _settled(self, plan: Callable[[], Outcome]) -> Shipped:
        """A plan whose closing measurement agrees that it holds the budgets. Raises BudgetError."""
        for _ in range(CLOSINGS):
            outcome = plan()
            while self._learned_effects(outcome):
                outcome = plan()
            shipped = self._ship(outcome)
            if self._confirmed(shipped):
                return shipped
            taken, asked = shipped.outcome.kept.measured_s, self.loop.targets.latency_s
            self.progress.say(
                f"closing measurement: {taken * 1e3:.3f} ms, more than the {asked * 1e3:.3f} ms allowed; planning again"
            )
            if self.loop.targets.asked_for_latency:
                self.loop.aim_lower(taken)
        if self.job.best_effort:
            return replace(shipped, outcome=self._judged(shipped.outcome))
        measure_extremes(self.loop)
        if any(map(self.loop.fits, self.loop.rounds)) and self._confirmed(shipped := self._ship(plan())):
            return shipped
        raise BudgetError(out_of_reach(self.loop))

    def _confirmed(self, shipped: Shipped) -> bool:
        outcome, timing = shipped.outcome, shipped.validation.timing
        if timing is None or not self.job.judge.measured or not outcome.met:
            return True
        if self.loop.targets.asked_for_latency:
            return self.loop.meets(outcome.kept)
        if self.loop.budgets.fastest:
            return outcome.kept.measured_s < self.loop.faster_s
        return on_original_kernels(outcome.assignment) or timing.ratio_low <= 1.0 + NOISE

    def _judged(self, outcome: Outcome) -> Outcome:
        return replace(outcome, met=self.loop.meets(outcome.kept))

    # ---- what is handed out --------------------------------------------------------------------

    def _try_out(self, proto: onnx.ModelProto) -> None:
        """Check the graph, then run it on all calibration samples, as it is measured and as a default session.

        Raises ModelError, with the name of the region at fault where it can be told.
        """
        data, bench = self.job.data, self.job.bench
        source = bench.model.proto
        for fault in structure_faults(proto, source, bench.model.regions, keep_io=bench.keep_io):
            raise DamagedGraphError(f"the written graph is damaged, {fault}", fault.region)
        try:
            lint_export(proto, source, bench.dialect.name)
        except OnnxmpqError as error:
            raise DamagedGraphError(str(error)) from error
        tried(proto, single(data.calibration), self.job.examiner.settings, limit_s=data.limit_s)

    def _ship(self, outcome: Outcome) -> Shipped:
        job, loop = self.job, self.loop
        compensated = compensate_plan(
            job.bench, outcome, job.data, job.effects, job.techniques, self.progress, job.cache
        )
        again = rebuilt(job.bench, outcome, compensated)
        try:
            self._try_out(again.proto)
            outcome = again
        except ModelError as error:  # with other weights in the same graph, which ran
            self.progress.warn(f"second rounding is left out: {error}")
            compensated = replace(compensated, weights=plain_weights(job.bench, outcome), biases={}, kept=())
        with self.progress.stage("validating", 0):
            quality = job.examiner.quality(outcome.proto, job.data.validation, job.data.held_out, unfused=True)
            if not quality.emulated:
                quality = replace(quality, timing=self._timing(outcome))
        if quality.timing is not None and job.judge.measured:
            measured_s = quality.timing.result_s
            loop.revised(outcome.kept, measured_s)
            outcome = replace(outcome, kept=replace(outcome.kept, measured_s=measured_s))
        return Shipped(outcome, compensated, quality, self._verdict(quality))

    def _timing(self, outcome: Outcome) -> Timing:
        """The closing measurement: long enough to tell on which side of the limit the model is."""
        job, loop = self.job, self.loop
        longer = replace(job.effort, seconds=2 * job.effort.seconds, rounds=3 * job.effort.rounds)
        limit = loop.targets.latency_s / loop.original_s if job.judge.measured and outcome.met else None
        settings, source = job.examiner.settings, job.examiner.source
        timing = time_side_by_side(source, outcome.proto, job.data.calibration, settings, longer, limit)
        return timing.in_time_of(loop.original_s) if job.judge.measured else timing


def _refiner(job: Job) -> Refiner | None:
    """By the user's metric, where one was chosen, and by divergence."""
    labelled, settings, feeds = job.examiner.labelled, job.examiner.judging, job.data.deciding

    def score(proto: onnx.ModelProto) -> float:
        assert labelled is not None
        return labelled.score(proto, feeds, settings)

    ranks = labelled is not None and labelled.ranks
    return make_refiner(job.bench, job.effects, job.data, job.seed, job.progress, score if ranks else None)
