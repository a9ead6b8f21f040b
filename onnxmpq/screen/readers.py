"""Output that nobody reads any more: `onnxmpq inspect model.onnx --json | head -1` ends in silence, as other tools do.

Python turns the signal SIGPIPE, which ends other programs, into a BrokenPipeError. If the signal ended this one, so
would each child process that crashes (`onnxmpq.isolation`); and what rich and click do about the error is to exit with
code 1, which has another meaning here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from onnxmpq.errors import UNREAD_EXIT_CODE


class ReaderGone(BaseException):
    """The pipe behind stdout or stderr is closed. No Exception: no step of a conversion may take it for its own."""


class _Stream:
    """A stream that raises ReaderGone instead of BrokenPipeError; in everything else the stream itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: Any) -> Any:
        with _telling():
            return self._stream.write(text)

    def flush(self) -> None:
        with _telling():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None


@contextmanager
def until_unread() -> Iterator[None]:
    """Ends the process with `UNREAD_EXIT_CODE`, without a word, once nobody reads what the block writes.

    The code of an error that was said on the other stream stays.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (None if s is None else _Stream(s) for s in streams)
    try:
        yield
    except ReaderGone:
        raise SystemExit(UNREAD_EXIT_CODE) from None
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            with suppress(OSError, ValueError, AttributeError):  # or what is buffered fails once more at the very end
                _to_nowhere(stream)


def _to_nowhere(stream: Any) -> None:
    """Let a stream whose pipe is closed write to the null device."""
    try:
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
