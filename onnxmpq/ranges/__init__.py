"""Calibrate: activation ranges from running the fp32 model on samples."""

from onnxmpq.ranges.estimators import ESTIMATORS
from onnxmpq.ranges.observe import Observation, observe, tensor_shapes, with_outputs
from onnxmpq.ranges.params import QuantParams, params_for

__all__ = ["ESTIMATORS", "Observation", "QuantParams", "observe", "params_for", "tensor_shapes", "with_outputs"]
