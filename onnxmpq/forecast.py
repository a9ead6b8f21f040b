"""Forecast of the seconds that the rest of a conversion takes, once costs are known: for the bar of the whole run.

Runs of the model, weights and measurements are counted. Seconds for each are those of digits_cnn and resnet20, rounded
(`benchmarks/forecast.py`; AMD EPYC with AVX-512, onnxruntime 1.32.0, CPU seconds, 2026-11-26); docs/screen.md compares
them with other models. The screen corrects them by what stages take; nothing else depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxmpq import progress
from onnxmpq.cost import Effort
from onnxmpq.execution import float_shapes
from onnxmpq.menu import Menu, activation_tensors, weight_formats
from onnxmpq.model import Model
from onnxmpq.samples import Samples
from onnxmpq.sensitivity import AUTO, REFERENCE_THREADS, extent, forward_seconds

TRIES_PER_TENSOR = 2.0  # estimators of an activation's range that differ
FORMAT_S = 0.085
"""CPU seconds for rounding a weight in one format for its inputs; in the second rounding, for each of its two steps."""
TRY_S = 2e-3
"""CPU seconds for a perturbation beside the runs of the model."""
PLAN_S = 0.05
"""CPU seconds for a plan that is built and opened, beside the runs of its model."""
LAYER_S = 0.15
"""Seconds for a layer while plans are solved for and compared."""
ROUNDS = 3.0  # of measurements, in which a plan is chosen
UNSEEN_PLANS = 6
UNFUSED = 2.0  # times the latency of a run that computes int8 exactly
PASSES = 1.5  # of the closing measurement, which is repeated until it is steady
CLOSING = 2.0  # its length in efforts


@dataclass(frozen=True)
class Work:
    """Counts of a conversion.

    forward_s: one run of the fp32 model on one thread. samples: for calibration, of which effect_samples are for
    effects. passes: runs of the model that a perturbation costs on each of these. formats: weights, once for each
    format that they may have. tries: perturbations. threads: of steps whose
    time is not measured. timing_s: of one measurement.
    """

    forward_s: float
    samples: int
    effect_samples: int
    passes: float
    layers: int
    formats: int
    tries: int
    threads: int
    timing_s: float

    @classmethod
    def of(
        cls,
        model: Model,
        menu: Menu,
        data: Samples,
        original_s: float | None,
        effort: Effort,
        threads: int,
        effects: str = AUTO,
    ) -> Work:
        """original_s: latency of the original as measured, None where it was not. effects: method of measuring them."""
        formats = len(weight_formats(model, menu))
        tries = formats + round(TRIES_PER_TENSOR * len(activation_tensors(model, menu)))
        estimated_s = forward_seconds(model, float_shapes(model, data.effects))
        run = extent(model, effects, estimated_s, tries, len(data.effects))
        return cls(
            original_s or REFERENCE_THREADS * estimated_s,
            len(data.calibration),
            run.samples,
            run.passes,
            len(model.layers),
            formats,
            tries,
            threads,
            effort.seconds,
        )


def forecast(work: Work) -> dict[str, float]:
    """Seconds by stage, in the order of the stages."""
    side_by_side = 1.0 / max(min(work.threads, work.samples), 1)
    runs_s = work.passes * work.effect_samples * work.forward_s + TRY_S
    return {
        progress.ROUNDING: FORMAT_S * work.formats * side_by_side,
        progress.SENSITIVITY: work.tries * runs_s * side_by_side,
        progress.UNSEEN: UNSEEN_PLANS * (PLAN_S + UNFUSED * work.samples * work.forward_s) * side_by_side,
        progress.CHOOSING: LAYER_S * work.layers + ROUNDS * work.timing_s,
        progress.SEQUENCE: 2 * FORMAT_S * work.layers * side_by_side,
        progress.COMPARING: work.samples * work.forward_s,
        progress.TIMING: PASSES * CLOSING * work.timing_s,
        progress.BESIDE: work.samples * work.forward_s + work.timing_s,
    }
