"""Comparisons that are shown beside a result and decide on nothing: plain int8, and sessions with other threads."""

from __future__ import annotations

from dataclasses import replace

from onnxmpq.progress import BESIDE
from onnxmpq.quality import StepTiming, time_side_by_side, time_steps
from onnxmpq.shipping.job import Job, Shipped
from onnxmpq.shipping.quality import Quality
from onnxmpq.trials import other_threads


def with_comparisons(job: Job, quality: Quality, shipped: Shipped) -> Shipped:
    """The result with the quality of int8 everywhere on the same samples, and with its latency in sessions that have
    another number of threads than the one that the budget is about."""
    validation, source, feeds = shipped.validation, job.quality_of.source, job.data.timed
    ways = () if validation.timing is None else other_threads(job.quality_of.settings)
    with job.context.progress.stage(BESIDE, 2 + len(ways)) as tick:
        plain = quality.int8_everywhere(validation)
        tick(1)
        timings = []
        for way in ways:
            timings.append(time_side_by_side(source, shipped.outcome.proto, feeds, way, job.effort, passes=1))
            tick(1)
        steps = () if validation.timing is None else _steps(job, shipped)
        tick(1)
    return replace(shipped, int8=plain, validation=replace(validation, other_timings=tuple(timings), steps=steps))


def _steps(job: Job, shipped: Shipped) -> tuple[StepTiming, ...]:
    """Both phases of a decoder, with the threads of the budget; what the budget is about is not measured again."""
    known = None if job.data.shapes else shipped.validation.timing
    settings, feeds = job.quality_of.settings, job.data.calibration
    return time_steps(job.quality_of.source, shipped.outcome.proto, feeds, settings, job.effort, known)
