"""Measuring a plan again that was applied: quality and latency beside the original, and whether the budgets hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.allocate import LATENCY, MEMORY, QUANTITIES, SIZE, parse_budgets, parse_memory
from onnxmpq.cost import Effort
from onnxmpq.decoding import cached_outputs, load_samples, structure_of
from onnxmpq.deployment import DeployCpu, needs_exact_integers
from onnxmpq.feeds import TIMED, Feeds, Recipe, Share, Step, at_step, timed_note, timed_samples
from onnxmpq.isolation import call, isolated
from onnxmpq.model import serialized_bytes
from onnxmpq.plan import RETOUCHED, Plan
from onnxmpq.profiling import Footprint, measured_sessions, memory_unmet
from onnxmpq.provenance import describe_runtime
from onnxmpq.quality import (
    MetricScores,
    Validation,
    compare,
    guessed_kinds,
    judge,
    parse_floors,
    time_side_by_side,
    time_steps,
)
from onnxmpq.replay.editing import measured_target
from onnxmpq.runtimes import SessionSettings, absolute, specs_of
from onnxmpq.sensitivity import OutputKind, with_caches
from onnxmpq.shipping import Labelled

Sessions = tuple[Footprint, Footprint]
"""Of the original and of the converted model."""


def feeds_for(model: Any, calibration: Any, recipe: str | Recipe | None, samples: int) -> Feeds:
    """Samples for the model's inputs, as for `convert`. model: path or proto. Raises CalibrationError, UsageError."""
    specs = call(specs_of, _runnable(model), doing="loading the model")
    return load_samples(_runnable(model), calibration, specs, recipe=recipe, limit=samples)


@dataclass(frozen=True)
class Judging:
    """By what a plan is measured again, beside samples: labels with their metric, kinds of outputs where the guess is
    wrong, shapes of the inputs that are timed, and of a decoder the phase."""

    labelled: Labelled | None = None
    outputs: Mapping[str, OutputKind] = field(default_factory=dict)
    shapes: tuple[Share, ...] = ()
    step: Step | None = None


@isolated()
def remeasured(
    original: str | Path | onnx.ModelProto,
    proto: onnx.ModelProto,
    plan: Plan,
    feeds: Feeds,
    judged: Judging,
    effort: Effort,
) -> tuple[Plan, Validation, Sessions | None]:
    """The plan with what is measured of its model here and now, how that compares with the original, and what sessions
    of both take.

    Latencies and sessions are measured where the plan's target is this machine, and no fp8 has to be emulated. The
    samples may be those of calibration. Raises ModelError, CrashError, ValidationError, and UsageError for a phase that
    no sample has.
    """
    settings, feeds = SessionSettings(threads=_threads(plan)), at_step(feeds, judged.step)
    source, timed = _runnable(original), timed_samples(feeds, judged.shapes)
    caches = cached_outputs(structure_of(source), feeds)
    kinds = {**guessed_kinds(source, feeds, settings), **with_caches(caches, judged.outputs)}
    exact = replace(settings, exact_integers=needs_exact_integers(DeployCpu(plan.deploy_cpu)))
    found = compare(source, proto, feeds, kinds, settings=exact, held_out=False)
    if judged.labelled is not None:
        before, after = (judged.labelled.score(m, feeds, exact) for m in (source, proto))
        found = replace(found, metric=MetricScores(judged.labelled.metric.name, before, after))
    if not found.emulated:
        timing = time_side_by_side(source, proto, timed, settings, effort)
        steps = time_steps(source, proto, feeds, settings, effort, None if judged.shapes else timing)
        found = replace(found, timing=timing, steps=steps)
    here = not found.emulated and measured_target(plan)
    sessions = measured_sessions(source, proto, timed, settings) if here else None
    measured: dict[str, float] = {"size_bytes": serialized_bytes(proto)}
    if found.timing is not None and here:
        t = found.timing
        measured |= {"latency_ms": t.result_s * 1e3, "original_latency_ms": t.original_s * 1e3}
        measured |= {
            f"latency_ms_{e}": r * t.original_s * 1e3 for e, r in (("low", t.ratio_low), ("high", t.ratio_high))
        }
    verdict = judge(found, synthetic=feeds.synthetic)
    plan = replace(plan, measured=measured, runtime={**plan.runtime, **_where(plan)})
    return (
        replace(
            plan,
            met=_met(plan, found, sessions),
            quality={"level": verdict.level, "reasons": list(verdict.reasons)},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            notes=_notes(plan, timed_note(feeds, judged.shapes) if here else ""),
        ).with_figures(),
        found,
        sessions,
    )


def _notes(plan: Plan, timed: str) -> tuple[str, ...]:
    """The plan's notes, with the inputs that latencies are about now."""
    kept = [note for note in plan.notes if note != RETOUCHED and TIMED not in note]
    return (*kept, *([timed] if timed else []))


def _runnable(model: Any) -> Any:
    return model if isinstance(model, onnx.ModelProto) else absolute(model)


def _threads(plan: Plan) -> int:
    text = plan.runtime.get("threads", "1")
    return int(text) if str(text).isdecimal() and int(text) else 1


def _where(plan: Plan) -> dict[str, str]:
    """The machine at hand; the version that made the plan stays, as it is in the model."""
    return {name: value for name, value in describe_runtime().items() if name != "onnxmpq"}


def _met(plan: Plan, found: Validation, sessions: Sessions | None) -> bool | None:
    """True if every budget and floor that the plan was made for holds, None where one cannot be told."""
    budgets = parse_budgets(**{name: plan.budgets.get(name) for name in QUANTITIES})
    floors = parse_floors(*(plan.budgets.get(n) for n in ("min_sqnr", "max_divergence", "min_agreement", "max_drop")))
    known = floors.max_drop is None or found.metric is not None
    answers: list[bool | None] = [not floors.unmet(found)] if known else [None]
    for name, limit in budgets.limits.items():
        figures = {**plan.prediction, **plan.measured} if QUANTITIES[name].modelled else plan.measured
        figure = QUANTITIES[name].figure
        taken, original = figures.get(figure), figures.get(f"original_{figure}")
        if name == SIZE:
            original = float(plan.model.get("bytes", 0))
        if taken is None or original is None:
            answers.append(None)
        else:
            answers.append(taken <= limit.of(original) if limit.relative else taken <= limit.value * _per(name))
    if (memory := parse_memory(plan.budgets.get(MEMORY))) is not None:
        answers.append(None if sessions is None else not memory_unmet(memory, *sessions))
    if budgets.fastest:
        taken, original = (plan.measured.get(f"{whose}{QUANTITIES[LATENCY].figure}") for whose in ("", "original_"))
        answers.append(None if taken is None or original is None else taken < original)
    if False in answers:
        return False
    return None if None in answers else True


def _per(name: str) -> float:
    return QUANTITIES[name].per_unit
