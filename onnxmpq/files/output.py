"""Writing results: atomic, checked beforehand, never over the input."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path

import onnx

from onnxmpq.errors import OutputError, UsageError
from onnxmpq.model import LENGTH, LOCATION, OFFSET, content_of, is_reference, place_of, read_parts, set_place, tensors

REPORT_FORMATS = {".json": "for programs", ".html": "a page for people"}
WORTH_MAPPING, PAGE_BYTES = 2**20, 2**16
"""Bytes of a constant from which on its external data is aligned, and to what, as onnxruntime does: pages of all
systems that map files."""


def check_writable(path: Path, source: Path | None = None) -> None:
    """Fail before the work, not after it. Raises OutputError."""
    if source is not None and os.path.exists(path) and os.path.exists(source) and path.samefile(source):
        raise OutputError(f"{path}: is the input model; choose another output with -o")
    folder = path.parent if str(path.parent) else Path()
    if not os.path.isdir(folder):
        raise OutputError(f"{path}: folder {folder} does not exist; create it or choose another output with -o")
    if os.path.isdir(path):
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
    """Atomically. Constants of a model by reference (`onnxmpq.model`) go to one file beside it, as external data.

    Raises OutputError; what was there before is still there then.
    """
    if not any(map(is_reference, tensors(proto))):
        write_bytes(path, proto.SerializeToString(deterministic=True))
        return
    beside = path.with_name(f"{path.name}.data")
    placed, size = _placed(proto, beside.name)
    _require_room(path, size + placed.ByteSize())
    with _filled(beside, _laid_out(proto)) as data, _ready(path, placed.SerializeToString(deterministic=True)) as model:
        os.replace(data, beside)
        os.replace(model, path)


def _placed(proto: onnx.ModelProto, location: str) -> tuple[onnx.ModelProto, int]:
    """A copy whose references are places in one file, and the length of that file."""
    copy, end = onnx.ModelProto(), 0
    copy.CopyFrom(proto)
    for tensor in filter(is_reference, tensors(copy)):
        length = int(place_of(tensor)[LENGTH])
        start = aligned(end, length)
        set_place(tensor, **{LOCATION: location, OFFSET: start})
        end = start + length
    return copy, end


def aligned(end: int, length: int) -> int:
    """Offset of the next constant in a file of external data: those that are worth mapping begin at a page."""
    return -(-end // PAGE_BYTES) * PAGE_BYTES if length >= WORTH_MAPPING else end


def _laid_out(proto: onnx.ModelProto) -> Iterator[bytes]:
    """The file that `_placed` describes, piece by piece."""
    end = 0
    for tensor in filter(is_reference, tensors(proto)):
        place = place_of(tensor)
        length = int(place[LENGTH])
        start = aligned(end, length)
        yield bytes(start - end)
        yield from read_parts(Path(place[LOCATION]), int(place[OFFSET]), length)
        end = start + length


def _require_room(path: Path, size: int) -> None:
    """Raises OutputError where a folder has less room than a file needs."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return  # writing will tell
    if free < size:
        raise OutputError(
            f"{path}: {size / 1e9:.2f} GB are to be written and its folder has room for {free / 1e9:.2f} GB; "
            "make room, or choose another output with -o"
        )


def weights_path(plan: Path) -> Path:
    """Of arrays that a plan has in a file of their own: model.mpq.plan.json -> model.mpq.plan.weights"""
    return plan.with_name(plan.name.removesuffix(".json") + ".weights")


def write_result(path: Path, proto: onnx.ModelProto, plan: str, weights: Iterable[bytes] = ()) -> None:
    """A model and its plan beside it: both, or where one cannot be written neither. Raises OutputError.

    weights: of the file that goes with the plan, piece by piece; without any there is none.
    """
    beside, parts = plan_path(path), iter(weights)
    first = next(parts, None)
    aside = nullcontext() if first is None else _filled(weights_path(beside), chain((first,), parts))
    with _ready(beside, plan.encode("utf-8")) as planned, aside as filled:
        write_model(path, proto)
        if filled is not None:
            os.replace(filled, weights_path(beside))
        os.replace(planned, beside)


def serialize(proto: onnx.ModelProto) -> bytes:
    """The bytes of a model file, the same for the same graph; of a model by reference with hashes of its constants in
    the place of where they happen to be."""
    if any(map(is_reference, tensors(proto))):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for tensor in filter(is_reference, tensors(copy)):
            set_place(tensor, **{LOCATION: content_of(tensor), OFFSET: 0})
        proto = copy
    return bytes(proto.SerializeToString(deterministic=True))


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically. Raises OutputError."""
    with _ready(path, content) as written:
        os.replace(written, path)


def _ready(path: Path, content: bytes) -> AbstractContextManager[Path]:
    """A file beside the path with this content, to be moved there; it is gone afterwards. Raises OutputError."""
    return _filled(path, (content,))


@contextmanager
def _filled(path: Path, parts: Iterable[bytes]) -> Iterator[Path]:
    """The same with content that comes in parts."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            for content in parts:
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
