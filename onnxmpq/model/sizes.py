"""The files of a model, and their sizes."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnxmpq.errors import ModelError
from onnxmpq.model.bounds import external_files


def model_files(path: Path) -> list[Path]:
    """A model's file, and behind it those of its external data. Raises ModelError where it is no ONNX model, or not
    whole."""
    try:
        return [path, *external_files(onnx.load(path, load_external_data=False), path)]
    except (OSError, ValueError, DecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({type(error).__name__}); give the path of an .onnx file") from None


def file_bytes(path: Path) -> int:
    """Bytes of a model's file and of its external data together. Raises ModelError as `model_files` does."""
    return sum(file.stat().st_size for file in model_files(path))


def source_bytes(source: str | Path | onnx.ModelProto) -> int:
    """Bytes of a model's files, or of the model itself as one file. Raises ModelError as `file_bytes` does."""
    return source.ByteSize() if isinstance(source, onnx.ModelProto) else file_bytes(Path(source))
