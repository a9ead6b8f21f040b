"""onnxmpq: mixed-precision quantization of ONNX models to a measured budget.

import onnxmpq
result = onnxmpq.convert("model.onnx", latency="5ms", calibration={"input": samples})
result.model, result.plan, result.report
"""

from onnxmpq.pipeline import Result, convert, validate
from onnxmpq.plan import Plan, read_plan
from onnxmpq.replay import apply

__version__ = "0.1.0"
__all__ = ["Plan", "Result", "__version__", "apply", "convert", "read_plan", "validate"]
