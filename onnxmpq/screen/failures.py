"""The end of a command that fails: one line on stderr, JSON on stdout where it was asked for, an exit code."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from onnxmpq import reproducer
from onnxmpq.errors import INTERRUPTED_EXIT_CODE, TERMINATED_EXIT_CODE, OnnxmpqError, OutputError, UsageError
from onnxmpq.files import nearest_names
from onnxmpq.screen.answers import answer_error
from onnxmpq.screen.readers import ReaderGone, until_unread

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
INTERRUPTED = "interrupted; no file is left half-written"
TERMINATED = "terminated; no file is left half-written"


@dataclass(frozen=True)
class _Failure:
    """code: of the process. line: for stderr. kind, message, hint: for JSON."""

    code: int
    line: str
    kind: BaseException | str
    message: str
    hint: str = ""


def ended(command: Callable[[], object], arguments: Sequence[str], *, json: bool) -> None:
    """Run a command line and end the process as it ends.

    A traceback is shown with --debug only. json: errors are JSON documents on stdout as well. command: raises what it
    fails with, and returns an exit code or None.
    """
    debug = "--debug" in arguments
    with (
        until_unread(),
        _terminable() as terminated,
        reproducer.watched(arguments) as context,
        _shown(context, debug=debug, json=json),
    ):
        try:
            code = command()
            sys.stdout.flush()  # a full disk is noticed here, not when the interpreter ends
        except KeyboardInterrupt:
            code = INTERRUPTED_EXIT_CODE
    if code == INTERRUPTED_EXIT_CODE:  # typer turns Ctrl-C into this as well, without a word
        code, kind, said = (
            (TERMINATED_EXIT_CODE, "Terminated", TERMINATED)
            if terminated.is_set()
            else (INTERRUPTED_EXIT_CODE, "Interrupted", INTERRUPTED)
        )
        _show(_Failure(code, f"onnxmpq: {said}", kind, said), json=json)
    if code:
        raise SystemExit(code)


@contextmanager
def _terminable() -> Iterator[threading.Event]:
    """A block that SIGTERM ends as Ctrl-C does, so that what lies in temporary folders is removed: job schedulers end
    programs so. Yields an event that tells one from the other."""
    terminated = threading.Event()

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some send it to the process and once more to its group
        terminated.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield terminated
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _shown(context: reproducer.Context, *, debug: bool, json: bool) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failure = _failure(error, context)
        if isinstance(failure, str):  # help that was asked for by giving nothing
            print(failure, file=sys.stderr)
            raise SystemExit(UsageError.exit_code) from None
        internal = failure.line.startswith("onnxmpq: internal")
        if internal or not debug:
            _show(failure, json=json)
        if debug:
            raise
        raise SystemExit(failure.code) from None


def _show(failure: _Failure, *, json: bool) -> None:
    if json:
        with suppress(OSError, ReaderGone):  # where stdout is what failed
            answer_error(failure.code, failure.kind, failure.message, failure.hint)
    print(failure.line, file=sys.stderr)


def _failure(error: Exception, context: reproducer.Context) -> _Failure | str:
    """The line, the JSON fields and the exit code of an exception."""
    if isinstance(error, OnnxmpqError):
        saved = _reproduced(error, context) if type(error) is OnnxmpqError else ""  # a fault of ours, found by us
        return _Failure(error.exit_code, f"onnxmpq: error: {error}{saved}", error, str(error), saved.lstrip("; "))
    if hasattr(error, "format_message"):  # of click, which typer may bring its own copy of
        return _usage(error)
    if isinstance(error, MemoryError):
        why = f" ({' '.join(str(error).split())})" if str(error) else ""
        message = f"there is not enough memory{why}; give fewer samples"
        return _Failure(OnnxmpqError.exit_code, f"onnxmpq: error: {message}", error, message)
    if (full := _lack_of_room(error)) is not None:
        return _Failure(OutputError.exit_code, f"onnxmpq: error: {full}", full, str(full))
    what = " ".join(f"{type(error).__name__}: {error}".split())
    hint = f"report it (--debug shows more){_reproduced(error, context)}"
    return _Failure(OnnxmpqError.exit_code, f"onnxmpq: internal error: {what}; {hint}", "InternalError", what, hint)


def _usage(error: Exception) -> _Failure | str:
    """An option or argument that typer refuses; the help text itself where nothing at all was given."""
    message = str(error.format_message()).strip()  # type: ignore[attr-defined]
    if "\n" in message:
        return message
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path} --help`" if context is not None else "see `onnxmpq --help`"
    message = message[:1].lower() + message[1:].rstrip(".")
    if possible := getattr(error, "possibilities", None):
        given = getattr(error, "option_name", "")
        message = (
            f"no such option: {given}; did you mean {' or '.join(nearest_names(given, possible) or possible[:1])}?"
        )
    return _Failure(UsageError.exit_code, f"onnxmpq: error: {message}; {hint}", "UsageError", message, hint)


def _lack_of_room(error: BaseException) -> OutputError | None:
    """An error for a disk that is full, wherever that was noticed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            where = f"{cause.filename}: " if cause.filename else ""
            what = "make room, choose another output with -o, or set TMPDIR to a folder with more room"
            return OutputError(f"{where}cannot be written ({cause.strerror}); {what}")
        cause = cause.__cause__ or cause.__context__
    return None


def _reproduced(error: Exception, context: reproducer.Context) -> str:
    """Save a reproducer, and say where it is."""
    path = reproducer.save(error, context)
    return f"; attach {path}: structure and statistics of the model, no weights or samples" if path else ""
