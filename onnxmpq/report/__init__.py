"""The report of a conversion: accounts of the plan, the data behind it, and its conclusion in words."""

from onnxmpq.report.account import account_regions, account_transitions, account_uniform, effects_of_activations
from onnxmpq.report.conclusion import USE_IT, on_quality, threads_in_words
from onnxmpq.report.planned import (
    blocks_note,
    build_plan,
    coupled_note,
    few_rows_note,
    foreign_latency_note,
    idle_note,
    narrow_ends_note,
    simulated_note,
    source_name,
    unjudged_note,
    with_factors,
    with_stored_weights,
)
from onnxmpq.report.prediction import Prediction, predict_job
from onnxmpq.report.report import Report, build_report
from onnxmpq.report.tables import cost_rows, curve_rows, left_out, sensitivity_rows

__all__ = [
    "USE_IT",
    "Prediction",
    "Report",
    "account_regions",
    "account_transitions",
    "account_uniform",
    "blocks_note",
    "build_plan",
    "build_report",
    "cost_rows",
    "coupled_note",
    "curve_rows",
    "effects_of_activations",
    "few_rows_note",
    "foreign_latency_note",
    "idle_note",
    "left_out",
    "narrow_ends_note",
    "on_quality",
    "predict_job",
    "sensitivity_rows",
    "simulated_note",
    "source_name",
    "threads_in_words",
    "unjudged_note",
    "with_factors",
    "with_stored_weights",
]
