"""Messages through the pipes, pickled: requests to the child, and its answers."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import onnx

OWN_FOLDER = "ONNXMPQ_CHILD_FOLDER"
"""Environment variable with the folder of the child's temporary files, for the child to remove if the parent cannot."""
INLINE_BYTES = 2**31 - 2**20
"""Protobuf serializes no more than 2 GB; a larger model goes through a file."""


@dataclass(frozen=True)
class Reference:
    """Stands for a value that the child keeps."""

    key: int


@dataclass(frozen=True)
class Request:
    """Call `function`, and keep the result under `keep` where that is a key. drop: keys of values to forget first."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keep: int | None = None
    drop: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The result, or the exception that was raised instead."""

    result: Any = None
    error: Exception | None = None


def write(message: Request | Answer, stream: IO[bytes], folder: str | None = None) -> None:
    """folder: where models of more than 2 GB go."""
    _Pickler(stream, folder).dump(message)
    stream.flush()


def portable(error: Exception) -> Exception:
    """The exception as it can be pickled, with the traceback as a note. Its class is lost only where it has to be."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # a class that asks for other arguments than it hands on, or that cannot be found by its name
        pass
    other = RuntimeError(f"{type(error).__name__}: {error}")
    other.__notes__ = error.__notes__
    return other


class _Pickler(pickle.Pickler):
    def __init__(self, stream: IO[bytes], folder: str | None) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self._folder = folder

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, onnx.ModelProto):
            return NotImplemented
        if value.ByteSize() < INLINE_BYTES:
            return onnx.load_model_from_string, (value.SerializeToString(),)
        folder = Path(tempfile.mkdtemp(prefix="onnxmpq-", dir=self._folder))
        copy = onnx.ModelProto()
        copy.CopyFrom(value)
        onnx.save_model(copy, folder / "model.onnx", save_as_external_data=True, location="model.data")
        return _read_and_remove, (folder,)


def _read_and_remove(folder: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model(folder / "model.onnx")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
