"""Sensitivity: what each quantization decision alone does to the outputs."""

from onnxmpq.sensitivity.divergence import (
    KINDS,
    SMALLEST_PROBABILITY,
    Code,
    Divergence,
    OutputKind,
    floored,
    guess_kind,
    kl_divergence,
)
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
from onnxmpq.sensitivity.reliability import FEWEST_SAMPLES, level_and_trust

__all__ = [
    "FEWEST_SAMPLES",
    "KINDS",
    "PASSES_PER_TRY",
    "REFERENCE_THREADS",
    "SMALLEST_PROBABILITY",
    "Code",
    "Divergence",
    "Effects",
    "Evaluator",
    "Frame",
    "OutputKind",
    "Perturbations",
    "affordable",
    "effects_of_menu",
    "fit_frame",
    "floored",
    "forward_seconds",
    "guess_kind",
    "kl_divergence",
    "level_and_trust",
    "make_divergence",
    "measure_effects",
]
