"""Calibrate: activation ranges from running the fp32 model on samples."""

from onnxmpq.ranges.calibrate import known_ranges, observe_ranges, range_candidates
from onnxmpq.ranges.estimators import CHOICES, ESTIMATORS, require_estimator
from onnxmpq.ranges.exchange import Calibration, read_calibration
from onnxmpq.ranges.headroom import headroom
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.ranges.nonfinite import explain_nonfinite, none_finite
from onnxmpq.ranges.observe import Observation, observe
from onnxmpq.ranges.params import BITS, QuantParams, params_for, params_key

__all__ = [
    "BITS",
    "CHOICES",
    "ESTIMATORS",
    "Calibration",
    "Histogram",
    "Observation",
    "QuantParams",
    "explain_nonfinite",
    "headroom",
    "known_ranges",
    "none_finite",
    "observe",
    "observe_ranges",
    "params_for",
    "params_key",
    "range_candidates",
    "read_calibration",
    "require_estimator",
]
