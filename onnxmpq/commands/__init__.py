"""Commands beside `convert`: one file each, for the command line and for Python."""

from onnxmpq.commands.calibration import calibrate
from onnxmpq.commands.checking import check
from onnxmpq.commands.gate import Judged, decided
from onnxmpq.commands.inspection import Inspection, inspect
from onnxmpq.commands.profile import profile_model
from onnxmpq.commands.sensitivity import measure_sensitivity
from onnxmpq.commands.validation import gate, validate

__all__ = [
    "Inspection",
    "Judged",
    "calibrate",
    "check",
    "decided",
    "gate",
    "inspect",
    "measure_sensitivity",
    "profile_model",
    "validate",
]
