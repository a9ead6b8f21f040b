"""The regions of a plan that compute something else than their simulation.

Effects predict what quantizing a region does to the outputs, from the float32 graph with dequantized weights. Here the
region is quantized for real, alone, and run in the session that the user will open. A measured divergence far above
the predicted one is a kernel that computes something else (8-bit products that saturate, a wrong fusion), or a graph
that does not say what was planned; the same graph without optimisation tells the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxmpq.allocate import quantized_roots
from onnxmpq.errors import ModelError
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.runtimes import SessionSettings
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, Evaluator
from onnxmpq.workbench import Workbench

FACTOR = 4.0  # of the predicted divergence; sound int8 regions of four real models measured at most 2.4 times theirs
SHARE = 0.25  # of the whole plan's predicted divergence, which a region has to add to be worth putting back
NO_EFFECT = 1e-6  # divergence that rounding in float32 makes
FEW = 3  # regions that are measured one by one, rather than halved
CROWDED = 2  # levels at which both halves were at fault, before the rest is measured one by one
Loss = Callable[[onnx.ModelProto], float]
Group = tuple[str, ...]


@dataclass(frozen=True)
class Suspect:
    """A region that diverges far more than predicted, alone in an otherwise float32 graph.

    predicted, measured, unfused: mean divergence (nats, or relative squared error) by effects, in the session as asked
    for, and in one without optimisation; infinite if onnxruntime cannot run the graph or computes NaN.
    """

    region: str
    predicted: float
    measured: float
    unfused: float

    @property
    def in_kernel(self) -> bool:
        """The unfused graph is as predicted, so the kernel is at fault; else the written graph or the prediction is."""
        return self.unfused - self.predicted < 0.5 * (self.measured - self.predicted)


def suspects(
    bench: Workbench,
    assignment: Mapping[str, Scheme],
    effects: Effects,
    feeds: Feeds,
    settings: SessionSettings,
    regions: Collection[str] | None = None,
) -> list[Suspect]:
    """Regions of a plan that diverge more than `FACTOR` times what effects predict, and by more than `SHARE` of the
    plan's predicted divergence; in graph order.

    feeds: a few samples (8 will do). settings: of the session that the user opens. regions: where to look, everywhere
    if None. Groups of regions are measured first: one culprit among 100 takes about 15 sessions. Empty also if the
    plan as a whole diverges more than predicted and no region does so alone: effects then do not add up.
    """
    evaluator = Evaluator.of(bench.model, effects.pooled, feeds, settings)
    unfused = replace(evaluator, settings=replace(settings, optimize=False))
    return judged(bench, assignment, effects, evaluator.loss, unfused.loss, regions)


def judged(
    bench: Workbench,
    assignment: Mapping[str, Scheme],
    effects: Effects,
    loss: Loss,
    unfused: Loss,
    regions: Collection[str] | None = None,
) -> list[Suspect]:
    """As `suspects`, with the divergence of a graph in either session given as functions."""
    model = bench.model
    chosen = {r.name: s for r in model.regions if (s := assignment.get(r.name)) is not None and not s.is_fp32}

    def predicted(group: Group) -> float:
        return predicted_divergence(model, {name: chosen[name] for name in group}, effects)

    def measured(group: Group, by: Loss = loss) -> float:
        try:
            value = by(bench.build({name: chosen[name] for name in group}))
        except ModelError:
            return math.inf
        return value if math.isfinite(value) else math.inf

    least = max(NO_EFFECT, SHARE * predicted(tuple(chosen)))
    names = tuple(name for name in chosen if regions is None or name in regions)
    found = culprits(names, predicted, measured, least)
    return [Suspect(name, predicted((name,)), value, measured((name,), unfused)) for name, value in found.items()]


def predicted_divergence(model: Model, assignment: Mapping[str, Scheme], effects: Effects) -> float:
    """Separable prediction for an assignment: effects of its weights, and of every activation that it quantizes."""
    own = sum(effects.of_scheme(region, scheme) for region, scheme in assignment.items())
    roots = quantized_roots(model, assignment)
    return own + sum(effects.of_activation(t) for t in sorted(roots) if t in effects.activations)


def culprits(
    names: Group, predicted: Callable[[Group], float], measured: Callable[[Group], float], least: float
) -> dict[str, float]:
    """Names that by themselves exceed `FACTOR` times their prediction by more than `least`, and what they measure.

    Groups that exceed their prediction are halved, as in group testing; a group whose first half does not exceed its
    own has the fault in the second, which is not measured then. If many are at fault, all are measured one by one.
    """

    def exceeds(group: Group) -> bool:
        return measured(group) - predicted(group) > least

    def singles(group: Group) -> dict[str, float]:
        found = {name: measured((name,)) for name in group}
        limits = {name: predicted((name,)) for name in group}
        return {n: v for n, v in found.items() if v > FACTOR * limits[n] and v - limits[n] > least}

    def search(group: Group, crowded: int) -> dict[str, float]:
        """Of a group that exceeds its prediction."""
        if len(group) <= FEW or crowded >= CROWDED:
            return singles(group)
        first, second = group[: len(group) // 2], group[len(group) // 2 :]
        early = exceeds(first)
        late = not early or exceeds(second)
        crowded = crowded + 1 if early and late else 0
        return (search(first, crowded) if early else {}) | (search(second, crowded) if late else {})

    return search(names, 0) if names and exceeds(names) else {}


def without(assignment: Mapping[str, Scheme], found: Sequence[Suspect]) -> dict[str, Scheme]:
    """The assignment with these regions back in float32."""
    names = {s.region for s in found}
    return {region: scheme for region, scheme in assignment.items() if region not in names}
