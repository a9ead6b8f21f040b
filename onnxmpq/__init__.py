"""onnxmpq: mixed-precision quantization of ONNX models to a measured budget.

import onnxmpq
result = onnxmpq.convert("model.onnx", latency="5ms", calibration={"input": samples})
result.model, result.plan, result.report
"""

from onnxmpq.calibration import calibrate
from onnxmpq.pipeline import Result, convert, validate
from onnxmpq.plan import Plan, read_plan
from onnxmpq.ranges.exchange import Calibration, read_calibration
from onnxmpq.replay import apply

__version__ = "0.1.0"
__all__ = [
    "Calibration",
    "Plan",
    "Result",
    "__version__",
    "apply",
    "calibrate",
    "convert",
    "read_calibration",
    "read_plan",
    "validate",
]
