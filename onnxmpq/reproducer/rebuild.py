"""From a reproducer back to a model that runs, with random weights of the same statistics."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnxmpq.errors import ModelError
from onnxmpq.reproducer.statistics import Statistics
from onnxmpq.reproducer.structure import filled


def rebuild(path: Path) -> onnx.ModelProto:
    """The model of a reproducer, the same at every call. Raises ModelError if the file is none, or has no structure."""
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            if "report.json" not in names:
                raise ModelError(f"{path}: is no reproducer of onnxmpq; give the .zip that the error message named")
            if "structure.onnx" not in names:
                raise ModelError(f"{path}: holds no model, which could not be read when it was written")
            structure = onnx.load_from_string(file.read("structure.onnx"))
            rows = json.loads(file.read("statistics.json"))
        return filled(structure, {place: Statistics.from_dict(row) for place, row in rows.items()})
    except (OSError, zipfile.BadZipFile, DecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as a reproducer ({type(error).__name__}); copy it again") from None
