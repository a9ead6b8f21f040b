"""Runtimes: everything that is known about a runtime, a folder each."""

from onnxmpq.runtimes.onnxruntime import probes, window
from onnxmpq.runtimes.onnxruntime.cpu import cpu_features, cpu_model
from onnxmpq.runtimes.onnxruntime.probe_graphs import (
    CLIP_TO_FLOAT8,
    CONV_BIAS_SCALE,
    FLOAT_BLOCKED,
    GEMM_FLOAT_BIAS,
    GEMM_WITHOUT_ZERO_POINT,
    OPERATORS,
    PROBES,
    RELU_TO_FLOAT8,
    Kind,
    blocks_name,
    float8_name,
)
from onnxmpq.runtimes.onnxruntime.window import warn_outside

__all__ = [
    "CLIP_TO_FLOAT8",
    "CONV_BIAS_SCALE",
    "FLOAT_BLOCKED",
    "GEMM_FLOAT_BIAS",
    "GEMM_WITHOUT_ZERO_POINT",
    "OPERATORS",
    "PROBES",
    "RELU_TO_FLOAT8",
    "Kind",
    "blocks_name",
    "cpu_features",
    "cpu_model",
    "float8_name",
    "probes",
    "warn_outside",
    "window",
]
