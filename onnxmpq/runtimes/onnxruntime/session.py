"""The only door to onnxruntime: sessions, their options, and how their failures read."""

from __future__ import annotations

import ctypes
import math
import os
import re
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
from onnxmpq.feeds import InputSpec
from onnxmpq.files import scratch_folder
from onnxmpq.model import NEVER_WHOLE, file_bytes, is_reference, subgraphs
from onnxmpq.schemes import DTYPES

Array = NDArray[np.generic]
Session = ort.InferenceSession
CPU = "CPUExecutionProvider"
_PROTOBUF_LIMIT = 2**31 - 2**20
_WRONG_FOR_FP8 = ["ReluQuantRewrite", "ClipQuantRewrite"]
"""Optimisers that keep_qdq must switch off (1.22 to 1.32): in front of a QuantizeLinear to float8, the first drops a
Relu, the second fails on a Clip."""
_FP8_TENSORS = {
    "tensor(float8e4m3fn)": onnx.TensorProto.FLOAT8E4M3FN,
    "tensor(float8e5m2)": onnx.TensorProto.FLOAT8E5M2,
}
_FP8 = frozenset(_FP8_TENSORS.values())
_BFLOAT16 = DTYPES["bfloat16"]
_HALVES = {f"tensor({name})": dtype for name, dtype in DTYPES.items()}
_UNKNOWN_TO_NUMPY = {"tensor(bfloat16)": _BFLOAT16, **dict.fromkeys(_FP8_TENSORS, np.dtype(np.uint8))}
_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": _BFLOAT16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class SessionSettings:
    """Options of a session.

    threads: intra-op threads. optimize: False for ORT_DISABLE_ALL, the unfused semantics of the graph.
    keep_qdq: keep Q/DQ nodes unfused (`session.disable_quant_qdq`), as graphs for other devices need on the CPU
        provider (`runs_unfused`).
    exact_integers: make int8 weights uint8 when the session is created (`session.x64quantprecision`), so that no kernel
        of an x86 CPU without VNNI saturates; slower. Other CPUs compute exactly anyway.
    lean: give memory back after each run instead of keeping it for the next; for sessions of which many are open.
    mapped: the weights of a model by reference (`onnxmpq.model`) stay in their files instead of being copied as kernels
        like them best; for sessions that are not timed. Without effect on other models, and on graphs with weights in
        blocks, which are multiplied by another kernel then.
    profile_prefix / optimized_path: where the profile and the optimised graph go, None for neither.
    """

    threads: int = 1
    provider: str = CPU
    optimize: bool = True
    keep_qdq: bool = False
    exact_integers: bool = False
    lean: bool = False
    mapped: bool = False
    profile_prefix: str | None = None
    optimized_path: str | None = None

    def on(self, provider: str | None) -> SessionSettings:
        """The same on another provider; None for the default."""
        return self if provider is None else replace(self, provider=provider)


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
    if isinstance(model, onnx.ModelProto) and runs_unfused(model):
        settings = replace(settings, keep_qdq=True)
    options, disabled = ort.SessionOptions(), []
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not settings.optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if settings.lean:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    if settings.keep_qdq:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        disabled = _WRONG_FOR_FP8
    if settings.exact_integers:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if settings.profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile_prefix
    if settings.optimized_path:
        options.optimized_model_filepath = settings.optimized_path
    if isinstance(model, onnx.ModelProto) and any(map(is_reference, _constants(model.graph))):
        model = _from_root(model)
        _refer(options, settings, mapped=settings.mapped and not _in_blocks(model))
    elif settings.mapped and isinstance(model, (str, Path)) and stays_in_files(model) and not _in_blocks(model):
        options.add_session_config_entry(_NO_COPIES, "1")
    providers = [settings.provider] if settings.provider == CPU else [settings.provider, CPU]
    try:
        if isinstance(model, onnx.ModelProto):
            if model.ByteSize() >= _PROTOBUF_LIMIT:
                return _open_through_file(model, options, providers, disabled)
            model = model.SerializeToString()  # the graph need not stay in memory while the runtime reads that
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:  # onnxruntime raises its own classes, all derived from Exception
        raise ModelError(f"onnxruntime cannot load the model: {_short(error)}", _blamed(error)) from error


_FILES_FOLDER = "session.model_external_initializers_file_folder_path"
_NO_COPIES = "session.disable_prepacking"
_ROOT = os.path.abspath(os.sep)
_OPTIMIZED_DATA = "optimized.data"


def stays_in_files(model: onnx.ModelProto | bytes | str | Path) -> bool:
    """True for a graph with references, and for the file of a model that is never whole in memory. What is no model is
    told when it is opened."""
    if isinstance(model, onnx.ModelProto):
        return any(map(is_reference, _constants(model.graph)))
    try:
        return not isinstance(model, bytes) and file_bytes(Path(model)) >= NEVER_WHOLE
    except ModelError:
        return False


def _in_blocks(model: onnx.ModelProto | str | Path) -> bool:
    """True for a graph with MatMulNBits, or what is fused to it. Without prepacking that kernel unfolds the weights and
    multiplies floats, whatever its accuracy level is: other values (0.5 % at level 4), at 10 to 60 times the time."""
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model, load_external_data=False)
    nodes = [n for graph in subgraphs(proto.graph) for n in graph.node]
    return any(n.op_type == "MatMulNBits" or (n.op_type == "DequantizeLinear" and _block_size(n)) for n in nodes)


def _block_size(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "block_size"), 0)


def _refer(options: ort.SessionOptions, settings: SessionSettings, *, mapped: bool) -> None:
    """Options for a model with constants in files of any folder: onnxruntime takes places below one folder only."""
    options.add_session_config_entry(_FILES_FOLDER, _ROOT)
    if mapped:
        options.add_session_config_entry(_NO_COPIES, "1")
    if settings.optimized_path:  # whole, it may be beyond what protobuf can write
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _OPTIMIZED_DATA)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "65536")


def _from_root(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose references are places below the root of the file system."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in filter(is_reference, _constants(copy.graph)):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = os.path.relpath(entry.value, _ROOT)
    return copy


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers of a graph and of the bodies in it."""
    for inner in subgraphs(graph):
        yield from inner.initializer


def absolute(model: onnx.ModelProto | bytes | str | Path) -> onnx.ModelProto | bytes | str:
    """A model for another process: a path that holds in any working folder, anything else as it is."""
    return os.path.abspath(model) if isinstance(model, (str, Path)) else model


def holds_fp8(model: onnx.ModelProto | bytes | str | Path) -> bool:
    """True if a graph has float8 zero points or weights. With its Q/DQ fused, the CPU provider would refuse it.

    False for what is no ONNX model; a session on it says what is wrong.
    """
    found = _structure(model)
    return found is not None and any(t.data_type in _FP8 for t in found.graph.initializer)


def runs_unfused(model: onnx.ModelProto | bytes | str | Path) -> bool:
    """True if the CPU provider computes what the graph says only with its Q/DQ unfused.

    That is of float8, and of weights in blocks with float16 scales. From these it makes a MatMulNBits of accuracy
    level 4, which rounds activations to int8; the devices that they are for multiply in float16 (docs/gpu.md).
    """
    found = _structure(model)
    return found is not None and (holds_fp8(found) or _unfolds_to_half(found))


def _unfolds_to_half(model: onnx.ModelProto) -> bool:
    half = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    blocked = (n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[1] in half)
    return any(a.name == "block_size" and a.i for n in blocked for a in n.attribute)


def _structure(model: onnx.ModelProto | bytes | str | Path) -> onnx.ModelProto | None:
    """The model without data in other files; None for what is no ONNX model."""
    try:
        if isinstance(model, bytes):
            return onnx.load_from_string(model)
        if isinstance(model, (str, Path)):
            return onnx.load(model, load_external_data=False)
    except (OSError, DecodeError):
        return None
    return model


def _open_through_file(
    model: onnx.ModelProto, options: ort.SessionOptions, providers: list[str], disabled: list[str]
) -> ort.InferenceSession:
    with scratch_folder("a model of 2 GB or more") as folder:
        path = folder / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        onnx.save_model(copy, path, save_as_external_data=True, location="model.data")
        return ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=disabled)


@dataclass(frozen=True)
class Call:
    """A run with its inputs prepared, so that the runtime alone can be timed.

    given: what the session takes. owners: arrays whose memory `given` refers to. by_value: through OrtValues, since
    some output is of a type that NumPy does not have.
    """

    session: ort.InferenceSession
    outputs: list[str] | None
    given: dict[str, Any]
    owners: dict[str, Array]
    by_value: bool

    @classmethod
    def of(
        cls, session: ort.InferenceSession, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> Call:
        """float32 feeds become float16 or bfloat16 where the session asks for it; bytes are marked as float8."""
        types = {i.name: i.type for i in session.get_inputs()}
        made = {o.name: o.type for o in session.get_outputs()}
        owners = {n: np.asarray(_in_half(v, types.get(n, "")), order="C") for n, v in feeds.items()}
        given = {name: _marked(values, types.get(name, "")) for name, values in owners.items()}
        names = list(outputs) if outputs is not None else None
        by_value = any(made.get(name) in _UNKNOWN_TO_NUMPY for name in names or made)
        if by_value:
            given = {n: v if isinstance(v, ort.OrtValue) else _value(v) for n, v in given.items()}
        return cls(session, names, given, owners, by_value)

    def __call__(self) -> list[Any]:
        """Raises ModelError with the runtime's message, and the nodes that it names."""
        try:
            if self.by_value:
                return list(self.session.run_with_ort_values(self.outputs, self.given))
            return list(self.session.run(self.outputs, self.given))
        except Exception as error:  # onnxruntime raises its own classes, all derived from Exception
            message = f"onnxruntime cannot run the model on this input: {_short(error)}"
            raise ModelError(message, _blamed(error)) from error


def run(session: ort.InferenceSession, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
    """Run once on float32 feeds, or on those of the session's own types; float8 comes as bytes.

    Raises ModelError with the runtime's message, and the nodes that it names.
    """
    call = Call.of(session, feeds, outputs)
    found = [_array(value) for value in call()]
    names = call.outputs if call.outputs is not None else [o.name for o in session.get_outputs()]
    return [_own(value) if name in feeds else value for name, value in zip(names, found, strict=True)]


def _own(values: Any) -> Any:
    """A copy of an output that is an input: onnxruntime hands back (1.22) the caller's memory without holding it."""
    return np.array(values) if isinstance(values, np.ndarray) else values


def _in_half(values: Array, wanted: str) -> Array:
    half = _HALVES.get(wanted)
    return values.astype(half) if half is not None and values.dtype == np.float32 else values


def _marked(values: Array, wanted: str) -> Any:
    """An array whose type NumPy does not have, as what it is."""
    mark = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    if values.dtype == _BFLOAT16:
        return mark(values, onnx.TensorProto.BFLOAT16)
    if values.dtype == np.uint8 and wanted in _FP8_TENSORS:
        return mark(values, _FP8_TENSORS[wanted])
    return values


def _value(values: Any) -> ort.OrtValue:
    """Raises ModelError for strings and sequences, which only a run without OrtValues takes."""
    try:
        return ort.OrtValue.ortvalue_from_numpy(values)
    except Exception as error:
        raise ModelError(f"onnxruntime cannot be fed with this input from Python: {_short(error)}") from error


def _array(value: Any) -> Any:
    """An output as an array; sequences and maps as they are."""
    if not isinstance(value, ort.OrtValue):
        return value
    stored, shape = _UNKNOWN_TO_NUMPY.get(value.data_type()), value.shape()
    if stored is None:
        return value.numpy()
    raw = ctypes.string_at(value.data_ptr(), math.prod(shape) * stored.itemsize)
    return np.frombuffer(bytearray(raw), stored).reshape(shape)


def widened(values: Array) -> Array:
    """float16 and bfloat16 as float32, for arithmetic; other arrays as they are."""
    return values.astype(np.float32) if values.dtype in _HALVES.values() else values


def input_specs(session: ort.InferenceSession) -> tuple[InputSpec, ...]:
    """The inputs a session asks for."""
    return tuple(
        InputSpec(i.name, np.dtype(_DTYPES.get(i.type, np.object_)), tuple(i.shape)) for i in session.get_inputs()
    )


def specs_of(model: onnx.ModelProto | bytes | str) -> tuple[InputSpec, ...]:
    """The inputs a model asks for. Raises ModelError."""
    return input_specs(open_session(model, SessionSettings(mapped=True)))


def outputs_on(
    model: onnx.ModelProto | bytes | str, inputs: Mapping[str, Array], settings: SessionSettings | None = None
) -> list[Array]:
    """A model's outputs in one run. Raises ModelError."""
    return run(open_session(model, settings), inputs)


@contextmanager
def profile_folder() -> Iterator[Path]:
    """A temporary folder for profiles and optimised graphs, gone afterwards. Raises OutputError where it is full."""
    with scratch_folder("profiles of onnxruntime") as folder:
        yield folder


def _blamed(error: BaseException) -> tuple[str, ...]:
    """Names in a message that may be nodes; onnxruntime may have added a suffix to one that it made itself."""
    return tuple(re.findall(r"[('\"]([^()'\"]+)[)'\"]", _short(error)))


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
