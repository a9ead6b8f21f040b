"""First runs of a model that the user gave: in the child of `onnxmpq.isolation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from onnxmpq.errors import CrashError
from onnxmpq.isolation import call

R = TypeVar("R")
RUNNING = "running the model"


def first(function: Callable[..., R], *arguments: Any, doing: str) -> R:
    """A call in the child. Raises CrashError with what can be done about it."""
    try:
        return call(function, *arguments, doing=doing)
    except CrashError as error:
        what = f"{error}; try it in another version of onnxruntime, and report the model to that project"
        raise CrashError(what, by_model=error.by_model, hung=error.hung) from None
