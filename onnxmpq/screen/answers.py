"""Answers on stdout: tables for people, or one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from onnxmpq.errors import OnnxmpqError
from onnxmpq.files import dump_json

SCHEMA = "onnxmpq.error/1"
WIDTH = 10_000  # where there is no terminal: rows of tables are lines as well


class _Lines(Console):
    """Where there is no terminal: a text or a table's row is one line however long it is, so that `grep` finds all of
    it."""

    def print(self, *objects: Any, **how: Any) -> None:
        if all(isinstance(found, str) for found in objects):
            how.setdefault("soft_wrap", True)
        super().print(*objects, **how)


def stdout() -> Console:
    """The console that answers go to."""
    console = Console()
    return console if console.is_terminal else _Lines(width=WIDTH)


def document(data: Any) -> str:
    """One JSON document."""
    return dump_json(data)


def answer(data: Any, error: OnnxmpqError | None = None) -> None:
    """Print the JSON document of a command, and raise the error that it ends with, which is then a field of it."""
    print(document(data if error is None else {**data, **error_fields(error.exit_code, _kind(error), str(error))}))
    if error is not None:
        error.answered = True
        raise error


def answer_error(code: int, error: BaseException | str, message: str, hint: str = "") -> None:
    """Print the JSON document of a command that failed. error: the exception, or what to call it."""
    kind = error if isinstance(error, str) else _kind(error)
    if not getattr(error, "answered", False):
        print(document({"schema": SCHEMA, **error_fields(code, kind, message, hint)}))


def error_fields(code: int, kind: str, message: str, hint: str = "") -> Mapping[str, Any]:
    """The field `error` of a JSON document. hint: what to do, where the message does not say it."""
    return {"error": {"code": code, "kind": kind, "message": message, **({"hint": hint} if hint else {})}}


def _kind(error: BaseException) -> str:
    return type(error).__name__
