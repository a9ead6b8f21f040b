"""The only door to onnxruntime: sessions, their options, and how their failures read."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from onnxmpq.errors import ModelError, TargetError
from onnxmpq.feeds.types import InputSpec

Array = NDArray[np.generic]
CPU = "CPUExecutionProvider"
_PROTOBUF_LIMIT = 2**31 - 2**20
_WRONG_FOR_FP8 = ["ReluQuantRewrite"]
"""Optimisers that keep_qdq must switch off: this one drops a Relu in front of a QuantizeLinear to float8 (1.31)."""
_FP8_TENSORS = {
    "tensor(float8e4m3fn)": onnx.TensorProto.FLOAT8E4M3FN,
    "tensor(float8e5m2)": onnx.TensorProto.FLOAT8E5M2,
}
_FP8 = frozenset(_FP8_TENSORS.values())
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class SessionSettings:
    """How a session is created.

    threads: intra-op threads. optimize: False for ORT_DISABLE_ALL, the unfused semantics of the graph.
    keep_qdq: keep Q/DQ nodes unfused (`session.disable_quant_qdq`), as fp8 graphs need on the CPU provider.
    profile_prefix / optimized_path: where the profile and the optimised graph go, None for neither.
    """

    threads: int = 1
    provider: str = CPU
    optimize: bool = True
    keep_qdq: bool = False
    profile_prefix: str | None = None
    optimized_path: str | None = None


def require_provider(name: str) -> None:
    """Raises TargetError where this onnxruntime has no such execution provider."""
    if name not in ort.get_available_providers():
        raise TargetError(
            f"execution provider {name!r} is not in this onnxruntime; available: "
            f"{', '.join(ort.get_available_providers())}. Install the onnxruntime package that has it"
        )


def open_session(
    model: onnx.ModelProto | bytes | str | Path, settings: SessionSettings | None = None
) -> ort.InferenceSession:
    """A session on a model. Raises ModelError with the runtime's own first line, TargetError for the provider."""
    settings = settings or SessionSettings()
    require_provider(settings.provider)
    if isinstance(model, onnx.ModelProto) and holds_fp8(model):
        settings = replace(settings, keep_qdq=True)
    options, disabled = ort.SessionOptions(), []
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not settings.optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if settings.keep_qdq:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        disabled = _WRONG_FOR_FP8
    if settings.profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile_prefix
    if settings.optimized_path:
        options.optimized_model_filepath = settings.optimized_path
    providers = [settings.provider] if settings.provider == CPU else [settings.provider, CPU]
    try:
        if isinstance(model, onnx.ModelProto):
            return _open_proto(model, options, providers, disabled)
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:  # onnxruntime raises its own classes, all derived from Exception
        raise ModelError(f"onnxruntime cannot load the model: {_short(error)}") from error


def holds_fp8(model: onnx.ModelProto | bytes | str | Path) -> bool:
    """Whether a graph has float8 zero points or weights. With its Q/DQ fused, the CPU provider would refuse it.

    False for what is no ONNX model; a session on it says what is wrong.
    """
    try:
        if isinstance(model, bytes):
            model = onnx.load_from_string(model)
        if isinstance(model, (str, Path)):
            model = onnx.load(model, load_external_data=False)
    except (OSError, DecodeError):
        return False
    return any(t.data_type in _FP8 for t in model.graph.initializer)


def _open_proto(
    model: onnx.ModelProto, options: ort.SessionOptions, providers: list[str], disabled: list[str]
) -> ort.InferenceSession:
    if model.ByteSize() < _PROTOBUF_LIMIT:
        raw = model.SerializeToString()
        return ort.InferenceSession(raw, options, providers=providers, disabled_optimizers=disabled)
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as folder:
        path = Path(folder) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        onnx.save_model(copy, path, save_as_external_data=True, location="model.data")
        return ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=disabled)


def run(session: ort.InferenceSession, feeds: dict[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
    """Run once; raises ModelError with the runtime's message (which names the node)."""
    try:
        return list(session.run(list(outputs) if outputs is not None else None, _typed(session, feeds)))
    except Exception as error:
        raise run_error(error) from error


def _typed(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Any]:
    """Feeds with bytes marked as float8 where the session takes that: NumPy has no such type, outputs come as bytes."""
    if all(values.dtype != np.uint8 for values in feeds.values()):
        return dict(feeds)
    types = {i.name: _FP8_TENSORS.get(i.type) for i in session.get_inputs()}
    mark = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    return {name: v if (kind := types.get(name)) is None else mark(v, kind) for name, v in feeds.items()}


def run_error(error: Exception) -> ModelError:
    """What the runtime says when a run fails; its message names the node."""
    return ModelError(f"onnxruntime cannot run the model on this input: {_short(error)}")


def input_specs(session: ort.InferenceSession) -> tuple[InputSpec, ...]:
    """The inputs a session asks for."""
    return tuple(
        InputSpec(i.name, np.dtype(_DTYPES.get(i.type, np.object_)), tuple(i.shape)) for i in session.get_inputs()
    )


def describe_runtime() -> dict[str, str]:
    """Runtime version and CPU model, for plans and cost tables."""
    return {"onnxruntime": ort.__version__, "cpu": cpu_model(), "platform": platform.platform(terse=True)}


def cpu_model() -> str:
    """The processor's own name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@contextmanager
def profile_folder() -> Iterator[Path]:
    """A temporary folder for profiles and optimised graphs, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as folder:
        yield Path(folder)


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
