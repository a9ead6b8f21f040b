"""Calibrate: activation ranges from running the fp32 model on samples."""

from onnxmpq.ranges.estimators import ESTIMATORS
from onnxmpq.ranges.observe import Observation, observe, tensor_shapes, with_outputs

__all__ = ["ESTIMATORS", "Observation", "observe", "tensor_shapes", "with_outputs"]
