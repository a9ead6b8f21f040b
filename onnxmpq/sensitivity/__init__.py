"""Sensitivity: what each quantization decision alone does to the outputs."""

from onnxmpq.sensitivity.divergence import KINDS, Divergence, OutputKind
from onnxmpq.sensitivity.effects import Effects, Perturbations, measure_effects

__all__ = ["KINDS", "Divergence", "Effects", "OutputKind", "Perturbations", "measure_effects"]
