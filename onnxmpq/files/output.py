"""Writing results: atomic, checked beforehand, never over the input."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from onnxmpq.errors import OutputError, UsageError

REPORT_FORMATS = {".json": "for programs", ".html": "a page for people"}
_PROTOBUF_LIMIT = 2**31 - 2**20


def check_writable(path: Path, source: Path | None = None) -> None:
    """Fail before the work, not after it. Raises OutputError."""
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise OutputError(f"{path}: is the input model; choose another output with -o")
    folder = path.parent if str(path.parent) else Path()
    if not folder.is_dir():
        raise OutputError(f"{path}: folder {folder} does not exist; create it or choose another output with -o")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file name with -o")
    try:
        handle, probe = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another output with -o") from None
    os.close(handle)
    os.unlink(probe)


def require_report_format(path: str | Path, option: str = "--report", among: Iterable[str] = REPORT_FORMATS) -> None:
    """The suffix of a report's file decides its format. Raises UsageError for one that is none of `among`."""
    if Path(path).suffix.lower() not in among:
        wanted = " or ".join(f"{suffix} ({REPORT_FORMATS[suffix]})" for suffix in among)
        raise UsageError(f"{option} {path}: the suffix decides the format; give a file that ends in {wanted}")


def plan_path(output: Path) -> Path:
    """model.mpq.onnx -> model.mpq.plan.json"""
    return output.with_name(output.name.removesuffix(".onnx") + ".plan.json")


def write_text(path: Path, text: str) -> None:
    """Atomically. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def write_model(path: Path, proto: onnx.ModelProto) -> None:
    """Atomically; models beyond protobuf's 2 GB go to external data beside the file. Raises OutputError."""
    if proto.ByteSize() < _PROTOBUF_LIMIT:
        write_bytes(path, serialize(proto))
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    onnx.external_data_helper.convert_model_to_external_data(copy, location=f"{path.name}.data")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            onnx.save_model(copy, Path(folder) / path.name)
            os.replace(Path(folder) / f"{path.name}.data", path.parent / f"{path.name}.data")
            os.replace(Path(folder) / path.name, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another output with -o") from None


def write_result(path: Path, proto: onnx.ModelProto, plan: str) -> None:
    """A model and its plan beside it: both, or where one cannot be written neither. Raises OutputError."""
    beside = plan_path(path)
    with _ready(beside, plan.encode("utf-8")) as planned:
        write_model(path, proto)
        os.replace(planned, beside)


def serialize(proto: onnx.ModelProto) -> bytes:
    """The bytes of a model file, the same for the same graph."""
    return bytes(proto.SerializeToString(deterministic=True))


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically. Raises OutputError."""
    with _ready(path, content) as written:
        os.replace(written, path)


@contextmanager
def _ready(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside the path with this content, to be moved there; it is gone afterwards. Raises OutputError."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        yield Path(temporary)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another output with -o") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
