"""The subject of a run, noted as it becomes known, so that a reproducer can tell if the run fails.

Only the command line watches; `remember` does nothing for a program that imports the package. This module imports no
other room, so that any room may call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass
class Context:
    """arguments: of the command line, without the program. samples: arrays by input name. assignment: region -> scheme
    of the plan that was built last."""

    arguments: tuple[str, ...]
    samples: Mapping[str, Any] | None = None
    assignment: Mapping[str, Any] | None = None


_current: ContextVar[Context | None] = ContextVar("onnxmpq_reproducer", default=None)


@contextmanager
def watched(arguments: Sequence[str]) -> Iterator[Context]:
    """A context that `remember` fills while the block runs."""
    context = Context(tuple(arguments))
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def remember(*, samples: Mapping[str, Any] | None = None, assignment: Mapping[str, Any] | None = None) -> None:
    """Note what the run works on now. References are kept, nothing is copied."""
    context = _current.get()
    if context is None:
        return
    if samples is not None:
        context.samples = samples
    if assignment is not None:
        context.assignment = assignment
