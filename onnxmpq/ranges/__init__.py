"""Calibrate: activation ranges from running the fp32 model on samples."""

from onnxmpq.ranges.estimators import CHOICES, ESTIMATORS, require_estimator
from onnxmpq.ranges.headroom import headroom
from onnxmpq.ranges.nonfinite import explain_nonfinite
from onnxmpq.ranges.observe import Observation, observe
from onnxmpq.ranges.params import ActivationType, QuantParams, params_for, params_key

__all__ = [
    "CHOICES",
    "ESTIMATORS",
    "ActivationType",
    "Observation",
    "QuantParams",
    "explain_nonfinite",
    "headroom",
    "observe",
    "params_for",
    "params_key",
    "require_estimator",
]
