"""Costs of the schemes on a menu: plans timed on this machine, a table from another one, or the target's model."""

from onnxmpq.profiling.costs import CLEARLY, plan_costs, profile, quick_latency_s
from onnxmpq.profiling.footprints import Footprint, footprint, measured_sessions, memory_unmet, sessions_in_words
from onnxmpq.profiling.timings import KEPT_S, RememberingProfiler

__all__ = [
    "CLEARLY",
    "KEPT_S",
    "Footprint",
    "RememberingProfiler",
    "footprint",
    "measured_sessions",
    "memory_unmet",
    "plan_costs",
    "profile",
    "quick_latency_s",
    "sessions_in_words",
]
