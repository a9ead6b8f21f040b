"""Sensitivity: what each quantization decision alone does to the outputs."""

from onnxmpq.sensitivity.divergence import KINDS, Divergence, OutputKind
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, fit_frame
from onnxmpq.sensitivity.measure import measure_effects
from onnxmpq.sensitivity.referee import Referee

__all__ = [
    "KINDS",
    "Divergence",
    "Effects",
    "Frame",
    "OutputKind",
    "Perturbations",
    "Referee",
    "fit_frame",
    "measure_effects",
]
