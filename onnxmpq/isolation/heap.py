"""Memory that is free but still this process's."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import suppress


def release_memory() -> None:
    """Give the system back what the C library keeps of freed memory.

    onnxruntime packs weights in pieces of a few megabytes. glibc keeps such pieces when a session is closed: twice the
    size of a model with MatMulNBits (onnxruntime 1.32). Does nothing with other C libraries.
    """
    if (trim := _trim()) is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], object] | None:
    """malloc_trim(3) of glibc."""
    with suppress(OSError, AttributeError, TypeError):  # Windows has no such library, others no such function
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
        return found
    return None
