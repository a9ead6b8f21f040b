"""From a file to a proto: reading, checking, naming, inlining and raising the opset. Nothing here changes the input."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError

from onnxmpq.errors import ModelError, UsageError
from onnxmpq.model.descriptions import keep_descriptions

MINIMUM_OPSET = 9
LARGEST_BYTES = 2**31 - 2**20  # protobuf's end, and with it that of onnx's checker, inliner and opset converter
TARGET_OPSET = 21  # first with int4 tensors and blocked DequantizeLinear
PER_CHANNEL_OPSET = 13  # first with DequantizeLinear(axis)
_IR_VERSIONS = ((21, 10), (19, 9), (0, 8))  # opset, the IR version that came with it
QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
    | {"MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "DynamicQuantizeLSTM"}
)


@dataclass(frozen=True)
class Loaded:
    """A read model. sha256 and size_bytes are those of the file and its external data together."""

    proto: onnx.ModelProto
    sha256: str
    size_bytes: int
    notes: tuple[str, ...]


def is_quantized_op(op_type: str) -> bool:
    """True for operators that already work on quantized tensors."""
    return op_type in QUANTIZED_OPS or op_type.startswith("QLinear")


def load(source: str | Path | onnx.ModelProto, opset: int | None = None) -> Loaded:
    """Read a model from a path or take a proto; convert it to `opset`, or raise it to `TARGET_OPSET`.

    Raises ModelError: no such file, not ONNX, truncated, external data missing, 2 GB or more, opset below 9.
    """
    if isinstance(source, onnx.ModelProto):
        _require_fitting(sum(len(t.raw_data) for t in source.graph.initializer), "the given model")
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        raw = source.SerializeToString(deterministic=True)
        where, digest, size = "the given model", hashlib.sha256(raw).hexdigest(), len(raw)
    else:
        where = str(source)
        proto, digest, size = read(Path(source))
        _require_fitting(size, where)
    _check(proto, where)
    given, notes = proto, list[str]()
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
        notes.append("local functions were inlined")
    name_nodes(proto)
    proto, opset_note = _raise_opset(proto) if opset is None else _convert_opset(proto, opset)
    type_constants(proto.graph)
    keep_descriptions(given, proto)
    notes += opset_note
    return Loaded(proto, digest, size, tuple(notes))


def read(path: Path) -> tuple[onnx.ModelProto, str, int]:
    """A model file with its external data, as it is; sha256 and size in bytes of all its files together.

    Raises ModelError: no such file, not ONNX, truncated, external data missing.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give the path of an .onnx model") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); give the path of an .onnx file") from None
    try:
        proto = onnx.load_from_string(raw)
    except DecodeError:
        raise ModelError(
            f"{path}: not an ONNX model, or truncated ({len(raw)} bytes); export or copy it again"
        ) from None
    _require_graph(proto, str(path))
    digest, size = hashlib.sha256(raw), len(raw)
    for location in sorted(_external_files(proto)):
        file = path.parent / location
        if not file.is_file():
            raise ModelError(f"{path}: external data file {location!r} is missing; put it beside the model")
        content = file.read_bytes()
        digest.update(content)
        size += len(content)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: external data cannot be read ({_first_line(error)}); copy its files again") from None
    return proto, digest.hexdigest(), size


def _external_files(proto: onnx.ModelProto) -> set[str]:
    return {
        entry.value
        for tensor in proto.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _require_graph(proto: onnx.ModelProto, where: str) -> None:
    if not proto.ir_version or not proto.graph.node:
        raise ModelError(f"{where}: not an ONNX model (no graph in it), or truncated; export or copy it again")


def _require_fitting(size: int, where: str) -> None:
    if size >= LARGEST_BYTES:
        raise ModelError(
            f"{where}: {size / 1e9:.1f} GB with its weights; models of 2 GB or more cannot be prepared, convert parts"
        )


def _check(proto: onnx.ModelProto, where: str) -> None:
    _require_graph(proto, where)
    if opset_of(proto) < MINIMUM_OPSET:
        raise ModelError(
            f"{where}: opset {opset_of(proto)} is older than {MINIMUM_OPSET}; export it again with a newer opset"
        )
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        if not any(node.domain not in ("", "ai.onnx") for node in proto.graph.node):
            raise ModelError(f"{where}: not a valid ONNX model ({_first_line(error)}); export it again") from None


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the default ONNX domain; 0 where the model imports none."""
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give every unnamed node a name and make all names unique, keeping the first use of each."""
    taken = {node.name for node in proto.graph.node if node.name}
    seen: set[str] = set()
    for index, node in enumerate(proto.graph.node):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem = node.name or f"{node.op_type}_{index}"
        name, suffix = stem, 1
        while name in seen or (name in taken and name != node.name) or name == node.name:
            name, suffix = f"{stem}_{suffix}", suffix + 1
        node.name = name
        seen.add(name)


def type_constants(graph: onnx.GraphProto) -> None:
    """Spell Constant nodes given by `value_float(s)` as float32 tensors; onnx-graphsurgeon reads those as float64."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                type_constants(inner)
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                given = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = onnx.numpy_helper.from_array(np.array(given, np.float32))
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _raise_opset(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model at TARGET_OPSET, or as it is where the converter cannot; int4 schemes are then not offered."""
    version = opset_of(proto)
    if version >= TARGET_OPSET:
        return proto, []
    try:
        raised = onnx.version_converter.convert_version(proto, TARGET_OPSET)
        onnx.checker.check_model(raised)
    except Exception as error:  # the converter raises bare RuntimeError, ValueError and its own types
        if version < PER_CHANNEL_OPSET:
            raise ModelError(
                f"opset {version} cannot be raised to {TARGET_OPSET} ({_first_line(error)}); "
                f"export the model with opset {PER_CHANNEL_OPSET} or newer"
            ) from None
        return proto, [f"kept at opset {version}, without int4 ({_first_line(error)})"]
    raised.ir_version = max(raised.ir_version, 10)
    return raised, [f"opset raised from {version} to {TARGET_OPSET}"]


def _convert_opset(proto: onnx.ModelProto, wanted: int) -> tuple[onnx.ModelProto, list[str]]:
    """The model at exactly this opset. Raises UsageError or ModelError."""
    version, newest = opset_of(proto), onnx.defs.onnx_opset_version()
    if not PER_CHANNEL_OPSET <= wanted <= newest:
        raise UsageError(f"opset {wanted} is not in {PER_CHANNEL_OPSET}..{newest}, which can hold quantized models")
    if version == wanted:
        return proto, []
    try:
        converted = onnx.version_converter.convert_version(proto, wanted)
        onnx.checker.check_model(converted)
    except Exception as error:  # as above
        raise ModelError(
            f"the model cannot be converted from opset {version} to {wanted} ({_first_line(error)}); "
            "leave the opset out, or export the model again"
        ) from None
    converted.ir_version = max(converted.ir_version, next(ir for least, ir in _IR_VERSIONS if wanted >= least))
    return converted, [f"opset converted from {version} to {wanted}"]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
