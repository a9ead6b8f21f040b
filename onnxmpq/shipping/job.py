"""The values that the last steps of a conversion share: how quality is measured, what is asked, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.allocate import Budgets, Problem
from onnxmpq.closed_loop import Outcome
from onnxmpq.comparison import MetricScores, Reference, Validation
from onnxmpq.context import Context
from onnxmpq.cost import Effort, PlanCosts
from onnxmpq.feeds import Feeds, read_labels
from onnxmpq.floors import Floors, Metric, MetricFunction
from onnxmpq.runtimes import SessionSettings
from onnxmpq.samples import Samples
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, OutputKind
from onnxmpq.verdict import Verdict
from onnxmpq.weights import Compensated, Techniques
from onnxmpq.workbench import Workbench


@dataclass(frozen=True)
class Labelled:
    """A metric and its labels. labels: path as for `read_labels`, or None for a metric that needs none.

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
        return MetricScores(self.labelled.metric.name, before, after)


@dataclass(frozen=True)
class Job:
    """Everything that a plan is chosen, built and judged with.

    guard: refuse a bad result where the user gave no floor. best_effort: hand out the closest plan
    where a budget cannot be met. int8: the plan of int8 wherever it is offered, with which `fastest` is compared with.
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


@dataclass(frozen=True)
class Shipped:
    """The plan that was kept, its weights, its quality on held-out samples, and the verdict on that."""

    outcome: Outcome
    compensated: Compensated
    validation: Validation
    verdict: Verdict
