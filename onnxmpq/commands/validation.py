"""Two models compared on samples: `onnxmpq validate`, which judges, and `validate` for Python, which shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxmpq.allocate import LATENCY, Limit
from onnxmpq.commands.gate import Judged, decided
from onnxmpq.cost import Effort
from onnxmpq.decoding import cached_outputs, load_samples, structure_of
from onnxmpq.errors import UsageError
from onnxmpq.feeds import Feeds, Step, at_step, shares_of, timed_samples
from onnxmpq.files import nearest
from onnxmpq.isolation import call, isolated
from onnxmpq.opening import as_given, say_timed
from onnxmpq.profiling import measured_sessions, quick_latency_s
from onnxmpq.progress import Progress, Remembering
from onnxmpq.quality import MetricScores, Validation, compare, guessed_kinds, time_side_by_side, time_steps
from onnxmpq.report import source_name
from onnxmpq.request import DEFAULT_SAMPLES, GateOptions, Source, accepts, parse_step, require_source
from onnxmpq.runtimes import SessionSettings, absolute, require_provider, specs_of
from onnxmpq.sensitivity import OutputKind, with_caches
from onnxmpq.shipping import Labelled
from onnxmpq.trials import other_threads


@isolated()
def gate(original: Path, converted: Path, options: GateOptions, progress: Progress | None = None) -> Judged:
    """Compare two model files on samples, and judge the converted one by floors and limits.

    Raises CalibrationError where floors are given and no samples, ModelError and ValidationError where the models
    cannot be compared. A model that misses something is no error here: see `Judged`.
    """
    heard = Remembering(progress)
    options.floors.require_data(options.calibration is None)
    specs = call(specs_of, absolute(original), doing=f"loading {original}")
    feeds = load_samples(
        absolute(original), options.calibration, specs, recipe=options.effective_recipe, limit=options.samples
    )
    for note in feeds.notes:
        (heard.warn if feeds.synthetic else heard.say)(note)
    settings = SessionSettings(threads=options.threads)
    settings = settings if options.provider is None else settings.on(options.provider)
    require_provider(settings.provider)
    labelled = Labelled.of(options.labels, options.metric)
    if labelled is not None and (remark := labelled.remark(str(original), feeds, settings)):
        heard.warn(remark)
    latency = options.limits.limits.get(LATENCY)
    found = validate(
        original,
        converted,
        feeds,
        settings,
        outputs=options.outputs,
        labelled=labelled,
        latency=latency,
        shape=options.shape,
        step=parse_step(options.step),
    )
    sessions = None
    if not found.emulated:
        timed = timed_samples(at_step(feeds, options.step), options.shapes)
        say_timed(timed, heard)
        sessions = measured_sessions(str(original), str(converted), timed, settings)
    judged = decided(options, found, original, converted, feeds, sessions)
    for line in judged.warnings:
        heard.warn(line)
    return replace(judged, warnings=tuple(heard.warnings))


@accepts
@isolated()
def validate(
    original: Source,
    converted: Source,
    calibration: Any = None,
    settings: SessionSettings | None = None,
    *,
    outputs: Mapping[str, OutputKind] | None = None,
    labelled: Labelled | None = None,
    latency: Limit | None = None,
    shape: Mapping[str, str | Sequence[int]] | None = None,
    step: Step | None = None,
) -> Validation:
    """Compare two models on samples: quality per output, and latency side by side on the typical sample.

    original, converted: paths, or the models themselves. calibration: arrays by input name, a path, an iterable of
    feeds, or whatever else `convert` takes; made-up samples without.
    outputs: their kinds, where the guess is wrong. shape: of what is timed; step: phase of a decoder that is timed.
    latency: a limit that is measured long enough to tell on which side of it the converted model is.
    """
    for model in (original, converted):
        require_source(model)
    settings = settings or SessionSettings()
    source = as_given(original)
    feeds = calibration
    if not isinstance(feeds, Feeds):
        specs = call(specs_of, absolute(source), doing=f"loading {source_name(original)}")
        feeds = load_samples(absolute(source), calibration, specs, limit=DEFAULT_SAMPLES)
    caches = cached_outputs(structure_of(source), feeds)
    guessed = {**guessed_kinds(source, feeds, settings), **with_caches(caches, None)}
    for name in set(outputs or ()) - set(guessed):
        raise UsageError(f"outputs: {name!r} is no output of the model; {nearest(name, guessed, 'it has')}")
    found = compare(original, converted, feeds, {**guessed, **(outputs or {})}, settings=settings, held_out=None)
    if labelled is not None:
        before, after = (labelled.score(as_given(m), feeds, settings) for m in (original, converted))
        found = replace(found, metric=MetricScores(labelled.metric.name, before, after))
    if found.emulated:
        return found
    limit = None if latency is None else latency.of(1.0)
    feeds = at_step(feeds, parse_step(step))
    timed = timed_samples(feeds, shares_of(shape))
    if latency is not None and not latency.relative:
        limit = latency.value / quick_latency_s(source, timed, settings)
    timing, *others = (
        time_side_by_side(original, converted, timed, way, Effort(seconds=2.0), limit if way is settings else None)
        for way in (settings, *other_threads(settings))
    )
    steps = time_steps(original, converted, feeds, settings, Effort(seconds=2.0), None if shape else timing)
    return replace(found, timing=timing, other_timings=tuple(others), steps=steps)
