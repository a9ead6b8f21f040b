"""Shipping a plan: its weights rounded once more, the graph checked and run, quality and latency measured."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnxmpq.closed_loop import Loop, Outcome
from onnxmpq.errors import DamagedGraphError, ModelError, OnnxmpqError
from onnxmpq.integrity import structure_faults
from onnxmpq.lint import lint_export
from onnxmpq.progress import COMPARING, TIMING, Tick
from onnxmpq.quality import MOST_PASSES, Timing, time_side_by_side
from onnxmpq.shipping.job import Job, Shipped
from onnxmpq.shipping.quality import Quality
from onnxmpq.shipping.second_rounding import compensate_plan, plain_weights, rebuilt
from onnxmpq.trials import single, tried


class Shipper:
    """Builds and measures what is handed out."""

    def __init__(self, job: Job, quality: Quality) -> None:
        self.job, self.quality = job, quality

    def try_out(self, proto: onnx.ModelProto) -> None:
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
        tried(proto, single(data.calibration), self.job.quality_of.settings, limit_s=data.limit_s)

    def ship(self, outcome: Outcome, loop: Loop) -> Shipped:
        """Measured with the weights of the second rounding where those run, else with the plain ones."""
        job = self.job
        compensated = compensate_plan(job.bench, outcome, job.data, job.effects, job.techniques, job.context)
        again = rebuilt(job.bench, outcome, compensated)
        try:
            self.try_out(again.proto)
            outcome = again
        except ModelError as error:  # with other weights in the same graph, which ran
            job.context.progress.warn(f"second rounding is left out: {error}")
            compensated = replace(compensated, weights=plain_weights(job.bench, outcome), biases={}, kept=())
        with job.context.progress.stage(COMPARING, 0):
            quality = job.quality_of(outcome.proto, job.data.validation, job.data.held_out, unfused=True)
        if not quality.emulated:
            with job.context.progress.stage(TIMING, MOST_PASSES) as tick:
                quality = replace(quality, timing=self._timing(outcome, loop, tick))
        if quality.timing is not None and job.costs.measured:
            measured_s = quality.timing.result_s
            loop.revised(outcome.kept, measured_s)
            outcome = replace(outcome, kept=replace(outcome.kept, measured_s=measured_s))
        return Shipped(outcome, compensated, quality, self.quality.verdict(quality))

    def _timing(self, outcome: Outcome, loop: Loop, tick: Tick) -> Timing:
        """The closing measurement: long enough to tell on which side of the limit the model is."""
        job = self.job
        longer = replace(job.effort, seconds=2 * job.effort.seconds, rounds=3 * job.effort.rounds)
        limit = loop.targets.latency_s / loop.original_s if job.costs.measured and outcome.met else None
        settings, source = job.quality_of.settings, job.quality_of.source
        timing = time_side_by_side(source, outcome.proto, job.data.timed, settings, longer, limit, tick=tick)
        return timing.in_time_of(loop.original_s) if job.costs.measured else timing
