"""Two models compared on samples, and judged by what is asked: `gate` for the command line, `validate` for Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxmpq.allocate import LATENCY
from onnxmpq.commands.gate import Judged, decided
from onnxmpq.cost import Effort
from onnxmpq.decoding import cached_outputs, load_samples, structure_of
from onnxmpq.errors import UsageError
from onnxmpq.feeds import Feeds, Recipe, Step, Timed, at_step, timed_samples
from onnxmpq.files import nearest
from onnxmpq.isolation import call, isolated
from onnxmpq.opening import as_given, say_timed
from onnxmpq.profiling import measured_sessions, quick_latency_s
from onnxmpq.progress import Progress, Remembering
from onnxmpq.quality import (
    MetricFunction,
    MetricScores,
    Validation,
    compare,
    guessed_kinds,
    time_side_by_side,
    time_steps,
)
from onnxmpq.report import source_name
from onnxmpq.request import DEFAULT_SAMPLES, GateOptions, Source, accepts, documents, require_source
from onnxmpq.runtimes import SessionSettings, absolute, require_provider, specs_of
from onnxmpq.sensitivity import OutputKind, with_caches
from onnxmpq.shipping import Labelled
from onnxmpq.trials import other_threads


@isolated()
def gate(original: Source, converted: Source, options: GateOptions, progress: Progress | None = None) -> Judged:
    """Compare two models on samples, and judge the converted one by floors and limits.

    Raises CalibrationError where floors are given and no samples, ModelError and ValidationError where the models
    cannot be compared. A model that misses something is no error here: see `Judged`.
    """
    return _judged(original, converted, options, None, progress)


@accepts
@isolated()
@documents(GateOptions)
def validate(
    original: Source,
    converted: Source,
    calibration: Any = None,
    settings: SessionSettings | None = None,
    *,
    recipe: str | Recipe | None = None,
    samples: int = DEFAULT_SAMPLES,
    outputs: Mapping[str, OutputKind] | None = None,
    labels: Any = None,
    metric: str | MetricFunction | None = None,
    min_sqnr: str | float | None = None,
    max_divergence: str | float | None = None,
    min_agreement: str | float | None = None,
    max_drop: str | float | None = None,
    latency: str | None = None,
    size: str | None = None,
    memory: str | None = None,
    guard: bool = True,
    shape: Mapping[str, str | Sequence[int]] | None = None,
    step: Step | None = None,
) -> Validation:
    """Compare two models on samples: quality per output, and latency side by side on the typical sample.

    original, converted: paths, or the models themselves. settings: of the sessions, one thread without.

    With a floor or a limit it is a gate, as the command line's: raises GateError where the converted model misses one,
    or is bad and no floor was given. With neither it only shows, however bad the model is. Raises UsageError for a
    value that cannot be understood.
    """
    options = GateOptions(
        calibration=calibration,
        recipe=recipe,  # type: ignore[arg-type]
        samples=samples,
        outputs=outputs,
        labels=labels,
        metric=metric,
        min_sqnr=min_sqnr,
        max_divergence=max_divergence,
        min_agreement=min_agreement,
        max_drop=max_drop,
        latency=latency,
        size=size,
        memory=memory,
        guard=guard,
        shape=shape,
        step=step,
    )
    judged = _judged(original, converted, options, settings, None)
    if judged.asked and judged.error is not None:
        raise judged.error
    return judged.found


def _judged(
    original: Source,
    converted: Source,
    options: GateOptions,
    settings: SessionSettings | None,
    progress: Progress | None,
) -> Judged:
    """settings: of the sessions, the options' own without."""
    for model in (original, converted):
        require_source(model)
    heard = Remembering(progress)
    options.floors.require_data(options.calibration is None)
    source, result = as_given(original), as_given(converted)
    feeds = options.calibration
    if not isinstance(feeds, Feeds):
        specs = call(specs_of, absolute(source), doing=f"loading {source_name(original)}")
        feeds = load_samples(
            absolute(source), options.calibration, specs, recipe=options.effective_recipe, limit=options.samples
        )
    for note in feeds.notes:
        (heard.warn if feeds.synthetic else heard.say)(note)
    if settings is None:
        settings = SessionSettings(threads=options.threads)
        settings = settings if options.provider is None else settings.on(options.provider)
    require_provider(settings.provider)
    labelled = Labelled.of(options.labels, options.metric)
    remark = "" if labelled is None else labelled.remark(source, feeds, settings)
    if remark:
        heard.warn(remark)
    with heard.stage("comparing the converted model with the original", 0):
        found = _compared(original, converted, feeds, settings, options, labelled)
    sessions = None
    if not found.emulated:
        phase = at_step(feeds, options.step)
        timed = timed_samples(phase, options.shapes)
        say_timed(timed, heard)
        with heard.stage("timing the converted model beside the original", 0):
            found = _with_timing(found, original, converted, phase, timed, settings, options)
        with heard.stage("opening sessions of both models", 0):
            sessions = measured_sessions(source, result, timed, settings)
    judged = decided(options, found, original, converted, feeds, sessions)
    for line in judged.warnings:
        heard.warn(line)
    doubts = (*judged.doubts, *([remark] if remark else []))
    return replace(judged, warnings=tuple(heard.warnings), doubts=doubts)


def _compared(
    original: Source,
    converted: Source,
    feeds: Feeds,
    settings: SessionSettings,
    options: GateOptions,
    labelled: Labelled | None,
) -> Validation:
    """Quality on all samples."""
    source, outputs = as_given(original), options.outputs or {}
    caches = cached_outputs(structure_of(source), feeds)
    guessed = {**guessed_kinds(source, feeds, settings), **with_caches(caches, None)}
    for name in set(outputs) - set(guessed):
        raise UsageError(f"outputs: {name!r} is no output of the model; {nearest(name, guessed, 'it has')}")
    found = compare(original, converted, feeds, {**guessed, **outputs}, settings=settings, held_out=None)
    if labelled is None:
        return found
    before, after = (labelled.score(as_given(m), feeds, settings) for m in (original, converted))
    return replace(found, metric=MetricScores(labelled.metric.name, before, after))


def _with_timing(
    found: Validation,
    original: Source,
    converted: Source,
    feeds: Feeds,
    timed: Timed,
    settings: SessionSettings,
    options: GateOptions,
) -> Validation:
    """With latency side by side, long enough to tell on which side of its limit it is. feeds: in the phase asked."""
    latency = options.limits.limits.get(LATENCY)
    limit = None if latency is None else latency.of(1.0)
    if latency is not None and not latency.relative:
        limit = latency.value / quick_latency_s(as_given(original), timed, settings)
    timing, *others = (
        time_side_by_side(original, converted, timed, way, Effort(seconds=2.0), limit if way is settings else None)
        for way in (settings, *other_threads(settings))
    )
    steps = time_steps(original, converted, feeds, settings, Effort(seconds=2.0), None if options.shape else timing)
    return replace(found, timing=timing, other_timings=tuple(others), steps=steps)
