"""`onnxmpq check` for Python: rules of a runtime that a model breaks, as rows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import onnx

from onnxmpq.files import Rows
from onnxmpq.lint import lint
from onnxmpq.model import read
from onnxmpq.request import Source, accepts, require_source

COLUMNS = ("rule", "node", "message", "severity")


@accepts
def check(model: Source, dialect: str = "onnxruntime") -> Rows:
    """A row for every rule of a dialect that a graph of any tool breaks: rule, node, message, severity.

    Empty where none is broken. Raises ModelError for a file that is no model, UsageError for an unknown dialect.
    """
    require_source(model)
    proto = model if isinstance(model, onnx.ModelProto) else read(Path(model))[0]
    return Rows(map(asdict, lint(proto, dialect)), COLUMNS)
