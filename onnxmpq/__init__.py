"""onnxmpq: mixed-precision quantization of ONNX models to a measured budget.

    import onnxmpq

    result = onnxmpq.convert("model.onnx", latency="5ms", calibration={"input": samples}, output="small.onnx")
    result                     # what was asked, measured, met; and the quality
    result.sensitivity         # rows for pandas.DataFrame or polars.DataFrame; also .costs and .curve

Do: `convert`, `convert_many`, `predict` (the same without building anything), `apply` a plan, `validate` two models,
`calibrate`, `profile`, `inspect`, `check`, `measure_sensitivity`. Read files: `read_plan`, `read_calibration`,
`read_cost_table`.
Whatever goes wrong is an `OnnxmpqError` of one line; `onnxmpq.errors` has the families.

Names are imported when they are first used, so that the command line can answer Ctrl-C from its first moment.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from onnxmpq.privacy import switch_telemetry_off

if TYPE_CHECKING:
    from onnxmpq import errors, report
    from onnxmpq.commands import Inspection, calibrate, check, inspect, measure_sensitivity, validate
    from onnxmpq.commands import profile_model as profile
    from onnxmpq.cost import CostTable, Effort, read_cost_table
    from onnxmpq.errors import OnnxmpqError
    from onnxmpq.files import Rows
    from onnxmpq.fleet import Fleet, convert_many
    from onnxmpq.pipeline import convert, predict
    from onnxmpq.plan import Plan, read_plan
    from onnxmpq.progress import Progress
    from onnxmpq.quality import Validation
    from onnxmpq.ranges import Calibration, read_calibration
    from onnxmpq.replay import Applied, apply, apply_plan
    from onnxmpq.report import Prediction, Report
    from onnxmpq.result import Result

__version__ = "0.1.0"
__all__ = [
    "Applied",
    "Calibration",
    "CostTable",
    "Effort",
    "Fleet",
    "Inspection",
    "OnnxmpqError",
    "Plan",
    "Prediction",
    "Progress",
    "Report",
    "Result",
    "Rows",
    "Validation",
    "__version__",
    "apply",
    "apply_plan",
    "calibrate",
    "check",
    "convert",
    "convert_many",
    "errors",
    "inspect",
    "measure_sensitivity",
    "predict",
    "profile",
    "read_calibration",
    "read_cost_table",
    "read_plan",
    "report",
    "validate",
]

_HOMES = {
    "Applied": "replay",
    "Calibration": "ranges",
    "CostTable": "cost",
    "Effort": "cost",
    "Fleet": "fleet",
    "Inspection": "commands",
    "OnnxmpqError": "errors",
    "Plan": "plan",
    "Prediction": "report",
    "Progress": "progress",
    "Report": "report",
    "Result": "result",
    "Rows": "files",
    "Validation": "quality",
    "apply": "replay",
    "apply_plan": "replay",
    "calibrate": "commands",
    "check": "commands",
    "convert": "pipeline",
    "convert_many": "fleet",
    "inspect": "commands",
    "measure_sensitivity": "commands",
    "predict": "pipeline",
    "profile": "commands:profile_model",
    "read_calibration": "ranges",
    "read_cost_table": "cost",
    "read_plan": "plan",
    "validate": "commands",
}
_MODULES = ("errors", "report")

switch_telemetry_off()


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"onnxmpq.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxmpq' has no attribute {name!r}")
    home, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"onnxmpq.{home}"), attribute or name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
