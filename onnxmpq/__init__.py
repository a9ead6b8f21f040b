"""onnxmpq: mixed-precision quantization of ONNX models to a measured budget.

import onnxmpq
result = onnxmpq.convert("model.onnx", latency="5ms", calibration={"input": samples})
result.model, result.plan, result.report

Names are imported when they are first used, so that the command line can answer Ctrl-C from its first moment.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from onnxmpq.privacy import switch_telemetry_off

if TYPE_CHECKING:
    from onnxmpq.calibration import calibrate
    from onnxmpq.pipeline import Result, convert, validate
    from onnxmpq.plan import Plan, read_plan
    from onnxmpq.ranges import Calibration, read_calibration
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

_HOMES = {
    "Calibration": "onnxmpq.ranges.exchange",
    "Plan": "onnxmpq.plan",
    "Result": "onnxmpq.pipeline",
    "apply": "onnxmpq.replay",
    "calibrate": "onnxmpq.calibration",
    "convert": "onnxmpq.pipeline",
    "read_calibration": "onnxmpq.ranges.exchange",
    "read_plan": "onnxmpq.plan",
    "validate": "onnxmpq.pipeline",
}

switch_telemetry_off()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxmpq' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
