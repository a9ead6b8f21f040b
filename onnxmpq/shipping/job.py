"""The values that the last steps of a conversion share: how quality is measured, what is asked, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from onnxmpq.allocate import Budgets, Problem
from onnxmpq.closed_loop import Outcome
from onnxmpq.context import Context
from onnxmpq.cost import Effort, PlanCosts
from onnxmpq.feeds import Feeds, read_labels
from onnxmpq.quality import (
    Floors,
    Metric,
    MetricFunction,
    MetricScores,
    Reference,
    Validation,
    Verdict,
    implausible_scores,
    outputs_for,
    top1,
)
from onnxmpq.runtimes import SessionSettings
from onnxmpq.samples import Samples
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, OutputKind
from onnxmpq.weights import Compensated, Techniques
from onnxmpq.workbench import Workbench


@dataclass(frozen=True)
class Labelled:
    """A metric and its labels. labels: as for `read_labels`, or None for a metric that needs none.

    ranks: True where the user chose the metric; it then decides between plans, before their divergence does.
    doubt: that `tried` found, in words.
    """

    metric: Metric
    labels: Any
    ranks: bool
    doubt: str = ""

    @classmethod
    def of(cls, labels: Any, metric: str | MetricFunction | None) -> Labelled | None:
        """None where neither is given."""
        if labels is None and metric is None:
            return None
        return cls(Metric.named(metric), labels, metric is not None)

    def tried(self, source: Any, data: Samples) -> Labelled:
        """The same, with its doubt. The metric of the original is taken once, so that wrong labels or a metric that
        fails show before the work."""
        remarks = [self.remark(source, feeds, SessionSettings()) for feeds in (data.calibration, data.validation)]
        return replace(self, doubt=remarks[0])

    def remark(self, source: Any, feeds: Feeds, settings: SessionSettings) -> str:
        """A warning where the original's top-1 is implausible. Raises CalibrationError where the metric fails."""
        labels, outputs = self._labels(feeds), outputs_for(source, feeds, settings)
        self.metric.value(outputs, labels)
        return implausible_scores(outputs, labels) if self.metric.function is top1 else ""

    @property
    def of_shares(self) -> bool:
        """True for a metric that is a share of the samples."""
        return self.metric.function is top1

    def score(self, model: Any, feeds: Feeds, settings: SessionSettings) -> float:
        return self.metric.score(model, feeds, self._labels(feeds), settings)

    def _labels(self, feeds: Feeds) -> Any:
        return None if self.labels is None else read_labels(self.labels, feeds)


@dataclass(frozen=True)
class QualityCheck:
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

    def __call__(self, proto: onnx.ModelProto, feeds: Feeds, held_out: bool, *, unfused: bool) -> Validation:
        """Quality on these samples, without timing."""
        if id(feeds) not in self.references:
            self.references[id(feeds)] = feeds, Reference.of(self.source, feeds, self.judging)
        _, reference = self.references[id(feeds)]
        found = reference.compare(proto, self.kinds, held_out=held_out, unfused=unfused)
        return found if self.labelled is None else replace(found, metric=self._metric(proto, feeds))

    def _metric(self, proto: onnx.ModelProto, feeds: Feeds) -> MetricScores:
        assert self.labelled is not None
        before, after = (self.labelled.score(m, feeds, self.judging) for m in (self.source, proto))
        return MetricScores(self.labelled.metric.name, before, after, self.labelled.doubt)


@dataclass(frozen=True)
class Job:
    """Everything that a plan is chosen, built and judged with.

    guard: refuse a bad result where the user gave no floor. best_effort: hand out the closest plan
    where a budget cannot be met. int8: the plan of int8 wherever it is offered, with which results are compared.
    left_out: schemes of regions that were not offered, with the reason in words. narrowed: options that took schemes or
    techniques from the choice.
    """

    problem: Problem
    budgets: Budgets
    floors: Floors
    bench: Workbench
    costs: PlanCosts
    data: Samples
    effects: Effects
    techniques: Techniques
    quality_of: QualityCheck
    effort: Effort
    context: Context
    guard: bool = True
    best_effort: bool = False
    int8: Mapping[str, Scheme] = field(default_factory=dict)
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    narrowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shipped:
    """The plan that was kept, its weights, its quality on held-out samples, and the verdict on that.

    int8: quality of int8 everywhere on the same samples; None where it does not run.
    """

    outcome: Outcome
    compensated: Compensated
    validation: Validation
    verdict: Verdict
    int8: Validation | None = None
