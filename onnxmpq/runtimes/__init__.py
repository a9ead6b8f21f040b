"""Runtimes: everything that is known about a runtime, a folder each. Reference sessions are onnxruntime's."""

from onnxmpq.runtimes.onnxruntime import probes, window
from onnxmpq.runtimes.onnxruntime.cpu import cpu_features, cpu_model
from onnxmpq.runtimes.onnxruntime.fusions import WEIGHT_ONLY
from onnxmpq.runtimes.onnxruntime.kernel_order import kernel_columns, kernel_rows, sums_neighbours
from onnxmpq.runtimes.onnxruntime.probe_graphs import (
    CLIP_TO_FLOAT8,
    CONV_BIAS_SCALE,
    FLOAT_BLOCKED,
    GEMM_FLOAT_BIAS,
    GEMM_WITHOUT_ZERO_POINT,
    GROUPED_ATTENTION,
    OPERATORS,
    PROBES,
    RELU_TO_FLOAT8,
    ROTARY,
    Kind,
    blocks_name,
    float8_name,
)
from onnxmpq.runtimes.onnxruntime.runtime import OnnxRuntime
from onnxmpq.runtimes.onnxruntime.session import (
    CPU,
    Call,
    Session,
    SessionSettings,
    absolute,
    holds_fp8,
    input_specs,
    open_session,
    outputs_on,
    profile_folder,
    require_provider,
    run,
    runs_unfused,
    specs_of,
    stays_in_files,
    widened,
)
from onnxmpq.runtimes.onnxruntime.window import warn_outside
from onnxmpq.runtimes.rules import FOLLOWS, STARTS, Becomes, Fact, Layout, Requires, Rules, State, plain_rules
from onnxmpq.runtimes.types import KernelTimes, Runtime

RUNTIMES: dict[str, Runtime] = {r.name: r for r in (OnnxRuntime(),)}
"""By the name that target files give."""
REFERENCE = RUNTIMES["onnxruntime"]
"""The one whose float32 sessions observe, and whose sessions judge what is handed out."""

__all__ = [
    "CLIP_TO_FLOAT8",
    "CONV_BIAS_SCALE",
    "CPU",
    "FLOAT_BLOCKED",
    "FOLLOWS",
    "GEMM_FLOAT_BIAS",
    "GEMM_WITHOUT_ZERO_POINT",
    "GROUPED_ATTENTION",
    "OPERATORS",
    "PROBES",
    "REFERENCE",
    "RELU_TO_FLOAT8",
    "ROTARY",
    "RUNTIMES",
    "STARTS",
    "WEIGHT_ONLY",
    "Becomes",
    "Call",
    "Fact",
    "KernelTimes",
    "Kind",
    "Layout",
    "Requires",
    "Rules",
    "Runtime",
    "Session",
    "SessionSettings",
    "State",
    "absolute",
    "blocks_name",
    "cpu_features",
    "cpu_model",
    "float8_name",
    "holds_fp8",
    "input_specs",
    "kernel_columns",
    "kernel_rows",
    "open_session",
    "outputs_on",
    "plain_rules",
    "probes",
    "profile_folder",
    "require_provider",
    "run",
    "runs_unfused",
    "specs_of",
    "stays_in_files",
    "sums_neighbours",
    "warn_outside",
    "widened",
    "window",
]
