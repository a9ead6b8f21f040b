"""Saturation of int8 kernels on samples: the counts behind `check --calib` (docs/overflow.md)."""

from onnxmpq.saturation.layers import suspects
from onnxmpq.saturation.observed import Observed, observe, specs

__all__ = [
    "Observed",
    "observe",
    "specs",
    "suspects",
]
