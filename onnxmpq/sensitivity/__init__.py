"""Sensitivity: what each quantization decision alone does to the outputs."""

from onnxmpq.sensitivity.divergence import Code, Divergence, by_channels, channel_axis, floored
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, effects_bytes, fit_frame, make_divergence
from onnxmpq.sensitivity.evaluator import Evaluator
from onnxmpq.sensitivity.measure import measure_effects
from onnxmpq.sensitivity.menu_effects import REFERENCE_THREADS, effects_of_menu, forward_seconds
from onnxmpq.sensitivity.method import AUTO, CHOICES, extent, require_method
from onnxmpq.sensitivity.output_kinds import (
    KINDS,
    OUTPUT_KINDS,
    OutputKind,
    class_scores,
    guess_kind,
    kl_divergence,
    with_caches,
)
from onnxmpq.sensitivity.reliability import FEWEST_SAMPLES, level_and_trust

__all__ = [
    "AUTO",
    "CHOICES",
    "FEWEST_SAMPLES",
    "KINDS",
    "OUTPUT_KINDS",
    "REFERENCE_THREADS",
    "Code",
    "Divergence",
    "Effects",
    "Evaluator",
    "Frame",
    "OutputKind",
    "Perturbations",
    "by_channels",
    "channel_axis",
    "class_scores",
    "effects_bytes",
    "effects_of_menu",
    "extent",
    "fit_frame",
    "floored",
    "forward_seconds",
    "guess_kind",
    "kl_divergence",
    "level_and_trust",
    "make_divergence",
    "measure_effects",
    "require_method",
    "with_caches",
]
