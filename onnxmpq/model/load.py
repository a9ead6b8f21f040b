"""From a file to a proto: reading and checking. Nothing here changes the input."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnxmpq.errors import ModelError
from onnxmpq.model.bounds import external_files, require_no_cycle, require_plausible, tensors
from onnxmpq.model.files import external, read_structure
from onnxmpq.model.opset import opset_of
from onnxmpq.model.shell import LARGEST_BYTES, shell
from onnxmpq.model.spill import Spill
from onnxmpq.model.store import WeightStore, with_values
from onnxmpq.model.texts import escape_texts, is_utf8
from onnxmpq.model.tidy import captured, defined_in, tidy

_CHUNK = 2**24  # bytes
QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
    | {
        "MatMulNBits",
        "GatherBlockQuantized",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "QGemm",
        "DynamicQuantizeLSTM",
    }
)


@dataclass(frozen=True)
class Loaded:
    """A model, spelled as `tidy` does; large constants that are in files are read when they are looked up.

    sha256 and size_bytes are those of the file and its external data together. where: its path, for messages.
    doubt: first line of what onnx.checker has against it, "" for nothing.
    """

    store: WeightStore
    sha256: str
    size_bytes: int
    where: str
    doubt: str = ""


_FLOAT_ENDS = frozenset({"MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


def is_quantized_op(op_type: str) -> bool:
    """True for operators that already work on quantized tensors."""
    return op_type in QUANTIZED_OPS or op_type.startswith("QLinear")


def hands_on_quantized(op_type: str) -> bool:
    """True for those of them whose neighbours are decided as well: codes are what they read or make, or stand for it.
    The others are quantized inside, and read and make floats."""
    return is_quantized_op(op_type) and op_type not in _FLOAT_ENDS


def load(source: str | Path | onnx.ModelProto) -> Loaded:
    """Read a model from a path or take a proto. One of `spill.NEVER_WHOLE` bytes or more in float32 is never whole in
    memory.

    Raises ModelError: no such file, not ONNX, truncated, external data missing, a proto of 2 GB or more, made for a
    newer onnx, values read that nothing makes. Raises OutputError where there is no temporary folder.
    """
    spill = None
    if isinstance(source, onnx.ModelProto):
        _require_fitting(sum(len(t.raw_data) for t in source.graph.initializer), "the given model")
        raw = source.SerializeToString(deterministic=True)
        where, digest, size, folder = "the given model", hashlib.sha256(raw).hexdigest(), len(raw), None
        proto = source
        if not is_utf8(source):
            proto = onnx.ModelProto.FromString(raw)
            escape_texts(proto)
    else:
        where, folder = str(source), Path(source).parent
        proto, digest, size = _described(Path(source))
        spill = Spill.of(size + _widening_bytes(proto))
    _require_graph(proto, where)
    _require_known(proto, where)
    require_plausible(proto, where, in_files=folder is not None)
    store = WeightStore.of(proto, folder, spill)
    tidy(store.structure.graph)
    require_no_cycle(store.structure, where)
    return Loaded(store, digest, size, where, _doubt(store.structure, where))


def _widening_bytes(proto: onnx.ModelProto) -> int:
    """Bytes that constants of 16 bits take in addition as float32, in which such models are converted."""
    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return sum(2 * math.prod(t.dims) for t in proto.graph.initializer if t.data_type in halves)


def read(path: Path) -> tuple[onnx.ModelProto, str, int]:
    """A model file with its external data, as it is; sha256 and size in bytes of all its files together.

    Raises ModelError: no such file, not ONNX, truncated, external data missing or outside the model's folder.
    """
    proto, digest, size = _described(path)
    for tensor in filter(external, tensors(proto)):
        tensor.CopyFrom(with_values(tensor, path.parent))
    return proto, digest, size


def _described(path: Path) -> tuple[onnx.ModelProto, str, int]:
    """The same, but large constants of the graph, and those in other files, have their places instead of values."""
    digest = hashlib.sha256()
    try:
        size = _add(digest, path)
        proto = read_structure(path)
        escape_texts(proto)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give the path of an .onnx model") from None
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or truncated ({size} bytes); export or copy it again") from None
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise ModelError(f"{path}: cannot be read ({what}); give the path of an .onnx file") from None
    _require_graph(proto, str(path))
    try:
        for file in external_files(proto, path):
            size += _add(digest, file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: external data cannot be read ({first_line(error)}); copy its files again") from None
    return proto, digest.hexdigest(), size


def _add(digest: hashlib._Hash, file: Path) -> int:
    """Add a file's bytes to the digest; returns their number."""
    size = 0
    with file.open("rb") as content:
        while part := content.read(_CHUNK):
            digest.update(part)
            size += len(part)
    return size


def _require_graph(proto: onnx.ModelProto, where: str) -> None:
    if not proto.ir_version or not proto.graph.node:
        raise ModelError(f"{where}: not an ONNX model (no graph in it), or truncated; export or copy it again")


def _require_fitting(size: int, where: str) -> None:
    if size >= LARGEST_BYTES:
        raise ModelError(f"{where}: {size / 1e9:.1f} GB with its weights; give the path of a model of 2 GB or more")


def _require_known(proto: onnx.ModelProto, where: str) -> None:
    """The model must not be newer than the installed onnx: it could not be read fully."""
    newest = onnx.defs.onnx_opset_version()
    for what, given, known in (("IR version", proto.ir_version, onnx.IR_VERSION), ("opset", opset_of(proto), newest)):
        if given > known:
            raise ModelError(
                f"{where}: {what} {given} is newer than {known}, the last that onnx {onnx.__version__} knows; update "
                f"onnx and onnxruntime, or export the model with {what} {known} or older"
            )


def _doubt(proto: onnx.ModelProto, where: str) -> str:
    """Objection of onnx.checker to a model, in its first line. It asks for more than a runtime does, so only what no
    runtime can do raises ModelError: reading a value that nothing makes."""
    try:
        onnx.checker.check_model(shell(proto))
    except (onnx.checker.ValidationError, ValueError) as error:
        missing = _read_but_never_made(proto.graph)
        if missing:
            raise ModelError(
                f"{where}: not a valid ONNX model (nothing makes {missing!r}, which it reads); export it again"
            ) from None
        return first_line(error)
    return ""


def _read_but_never_made(graph: onnx.GraphProto) -> str:
    """The first such value, "" if there is none. Bodies of nodes count as read from outside."""
    made = set(defined_in(graph))
    read = (t for n in graph.node for t in (*n.input, *captured(n)) if t)
    return next((t for t in (*read, *(o.name for o in graph.output)) if t not in made), "")


def first_line(error: BaseException) -> str:
    """Of a message that may have many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
