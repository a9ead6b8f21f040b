"""Sensitivity: what each quantization decision alone does to the outputs."""

from onnxmpq.sensitivity.divergence import Code, Divergence, floored
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, fit_frame, make_divergence
from onnxmpq.sensitivity.evaluator import Evaluator
from onnxmpq.sensitivity.measure import measure_effects
from onnxmpq.sensitivity.menu_effects import effects_of_menu
from onnxmpq.sensitivity.output_kinds import KINDS, OUTPUT_KINDS, OutputKind, class_scores, guess_kind, kl_divergence
from onnxmpq.sensitivity.reliability import FEWEST_SAMPLES, level_and_trust

__all__ = [
    "FEWEST_SAMPLES",
    "KINDS",
    "OUTPUT_KINDS",
    "Code",
    "Divergence",
    "Effects",
    "Evaluator",
    "Frame",
    "OutputKind",
    "Perturbations",
    "class_scores",
    "effects_of_menu",
    "fit_frame",
    "floored",
    "guess_kind",
    "kl_divergence",
    "level_and_trust",
    "make_divergence",
    "measure_effects",
]
