"""Sensitivity: what each quantization decision alone does to the outputs."""

from onnxmpq.sensitivity.divergence import Code, Divergence, by_channels, channel_axis, floored
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, fit_frame, make_divergence
from onnxmpq.sensitivity.evaluator import Evaluator
from onnxmpq.sensitivity.measure import measure_effects
from onnxmpq.sensitivity.menu_effects import (
    PASSES_PER_TRY,
    REFERENCE_THREADS,
    affordable,
    effects_of_menu,
    forward_seconds,
)
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
    "FEWEST_SAMPLES",
    "KINDS",
    "OUTPUT_KINDS",
    "PASSES_PER_TRY",
    "REFERENCE_THREADS",
    "Code",
    "Divergence",
    "Effects",
    "Evaluator",
    "Frame",
    "OutputKind",
    "Perturbations",
    "affordable",
    "by_channels",
    "channel_axis",
    "class_scores",
    "effects_of_menu",
    "fit_frame",
    "floored",
    "forward_seconds",
    "guess_kind",
    "kl_divergence",
    "level_and_trust",
    "make_divergence",
    "measure_effects",
    "with_caches",
]
