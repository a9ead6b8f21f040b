"""Sessions that may crash run in a child process, so that a crash is an error like others (docs/isolation.md).

No process is started and no session opened when this room is imported: rounding, which knows no runtime, starts its
workers with `launch`.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

from onnxmpq.isolation.heap import release_memory
from onnxmpq.isolation.messages import portable
from onnxmpq.isolation.process import Child, Kept, patience_s

__all__ = ["Child", "Kept", "call", "isolated", "keep", "kept", "patience_s", "portable", "release_memory"]

R = TypeVar("R")
T = TypeVar("T")


class _Current:
    """The child of this program, and in how many `isolated` blocks it is."""

    child, blocks, lock = Child(), 0, Lock()


def call(
    function: Callable[..., R], *arguments: Any, doing: str = "running a model", limit_s: float | None = None
) -> R:
    """`function(*arguments)`, computed in this program's child; see `Child.call`."""
    return _Current.child.call(function, *arguments, doing=doing, limit_s=limit_s)


def keep(function: Callable[..., T], *arguments: Any) -> Kept[T]:
    """The value of `function(*arguments)`, made in the child where a call needs it, and kept there for later calls."""
    return Kept(function, *arguments)


def kept(value: T) -> Kept[T]:
    """A value that the child gets once, for several calls."""
    return Kept(_itself, value)


def _itself(value: T) -> T:
    return value


@contextmanager
def isolated(child: Child | None = None) -> Iterator[Child]:
    """A block (or, as a decorator, a function) with a child that ends with it. Of nested blocks the outermost counts.

    Outside any block the child lives until the program ends. child: another one to use in this block, for tests.
    """
    with _Current.lock:
        before = _Current.child
        _Current.blocks += 1
        _Current.child = child or before
    current = _Current.child
    try:
        current.start()
        yield current
    finally:
        with _Current.lock:
            _Current.blocks -= 1
            last, _Current.child = not _Current.blocks, before
        if last or child is not None:
            current.close()


atexit.register(lambda: _Current.child.close())
