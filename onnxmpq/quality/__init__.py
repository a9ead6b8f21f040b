"""Quality of a converted model: compared with its original, held against floors, and in words."""

from onnxmpq.quality.comparison import (
    EMULATED,
    MetricScores,
    OutputQuality,
    Reference,
    Validation,
    compare,
    fusion_sqnr_db,
    guessed_kinds,
)
from onnxmpq.quality.floors import (
    TOP1,
    Floors,
    Metric,
    MetricFunction,
    implausible_scores,
    outputs_for,
    parse_floors,
    top1,
)
from onnxmpq.quality.resolution import declared_rows, unresolved
from onnxmpq.quality.timing import MOST_PASSES, StepTiming, Timing, time_side_by_side, time_steps
from onnxmpq.quality.verdict import Level, Verdict, judge

__all__ = [
    "EMULATED",
    "MOST_PASSES",
    "TOP1",
    "Floors",
    "Level",
    "Metric",
    "MetricFunction",
    "MetricScores",
    "OutputQuality",
    "Reference",
    "StepTiming",
    "Timing",
    "Validation",
    "Verdict",
    "compare",
    "declared_rows",
    "fusion_sqnr_db",
    "guessed_kinds",
    "implausible_scores",
    "judge",
    "outputs_for",
    "parse_floors",
    "time_side_by_side",
    "time_steps",
    "top1",
    "unresolved",
]
