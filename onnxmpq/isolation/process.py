"""A process for what may crash: functions are called there, and its death is an error like others.

`call(function, *arguments)` runs a function in the child. `keep(function, *arguments)` stands for a value that is made
in the child and stays there (an open session, the samples), and that is made again after a crash.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Event, RLock, Thread
from typing import IO, Any, Generic, TypeVar

from onnxmpq.errors import CrashError
from onnxmpq.isolation import launch
from onnxmpq.isolation.messages import OWN_FOLDER, Answer, Reference, Request, write

R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
FROM_OUTSIDE = frozenset({"SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"})
"""Signals that no model sends: something else ended the child, and the call is worth repeating."""
REPEATS = 2
PATIENCE = 100.0  # a model may take so many times as long as the original before it counts as hanging,
PATIENCE_S = 120.0  # and this much longer
_keys = itertools.count()


def patience_s(original_s: float) -> float:
    """Time limit of a call that took `original_s` seconds for the original model. Only a hang reaches it."""
    return PATIENCE_S + PATIENCE * max(original_s, 0.0)  # a clock may have been set back


class Kept(Generic[T_co]):
    """The value of `function(*arguments)`, in the child. Arguments may be `Kept` themselves."""

    def __init__(self, function: Callable[..., T_co], *arguments: Any) -> None:
        self.key, self.function, self.arguments = next(_keys), function, arguments
        self._here: list[T_co] = []

    def here(self) -> T_co:
        """The value in this process, where no child can be started."""
        if not self._here:
            self._here.append(self.function(*(_here(a) for a in self.arguments)))
        return self._here[0]


def _here(argument: Any) -> Any:
    return argument.here() if isinstance(argument, Kept) else argument


class Child:
    """One process, started when it is first needed and again after each death. Calls from threads take turns.

    program: that runs in it, for messages.
    """

    def __init__(self, program: str = "onnxruntime") -> None:
        self._program = program
        self._lock = RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: str | None = None
        self._owner = os.getpid()
        self._there: dict[int, weakref.ref[Kept[Any]]] = {}

    def call(
        self, function: Callable[..., R], *arguments: Any, doing: str = "running a model", limit_s: float | None = None
    ) -> R:
        """`function(*arguments)`, computed in the child; what it raises is raised here.

        function: of a module, not a lambda. doing: what it does, for messages. limit_s: longer is a hang.
        Raises CrashError where the child dies or hangs. A child that was killed from outside is tried again.
        """
        if not self._starts():
            return function(*(_here(a) for a in arguments))
        for left in reversed(range(REPEATS + 1)):
            try:
                with self._lock:
                    for kept in arguments:
                        if isinstance(kept, Kept):
                            self._make(kept, doing)
                    result: R = self._ask(Request(function, _by_key(arguments)), doing, limit_s)
                    return result
            except CrashError as error:
                if error.by_model or error.hung or not left:
                    raise
        raise AssertionError("unreachable")

    def start(self) -> None:
        """Start the process now, so that it is ready when it is needed."""
        self._starts()

    def _starts(self) -> bool:
        """True if the process runs, started now if need be; else calls are computed here."""
        if not launch.can_start():
            return False
        try:
            with self._lock:
                self._running()
        except OSError:  # no process more, no pipe more, or this user may not run the interpreter
            return False
        return True

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def close(self) -> None:
        """End the process. The next call starts another one."""
        with self._lock:
            process, self._process, self._there = self._process, None, {}
            if process is not None and self._owner == os.getpid():
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    with suppress(OSError):  # what was not sent cannot be
                        assert pipe is not None
                        pipe.close()
                if self._folder is not None:
                    shutil.rmtree(self._folder, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # forked: the process is the other one's
            self._process, self._there, self._owner = None, {}, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = launch.start("onnxmpq.isolation.child", self._own_folder())
        return self._process

    def _own_folder(self) -> dict[str, str]:
        """Where the child's temporary files go, for a crash leaves them behind; the usual folder if that is full."""
        try:
            self._folder = tempfile.mkdtemp(prefix="onnxmpq-")
        except OSError:
            self._folder = None
            return {}
        return dict.fromkeys(("TMPDIR", "TEMP", "TMP", OWN_FOLDER), self._folder)

    def _make(self, kept: Kept[Any], doing: str) -> None:
        self._running()  # or `_there` is about a process that has ended
        if kept.key in self._there:
            return
        for inner in kept.arguments:
            if isinstance(inner, Kept):
                self._make(inner, doing)
        self._ask(Request(kept.function, _by_key(kept.arguments), kept.key), doing, None)
        self._there[kept.key] = weakref.ref(kept)

    def _ask(self, request: Request, doing: str, limit_s: float | None) -> Any:
        process = self._running()
        gone = tuple(key for key, reference in self._there.items() if reference() is None)
        for key in gone:
            del self._there[key]
        if not {a.key for a in request.arguments if isinstance(a, Reference)} <= self._there.keys():
            raise CrashError(f"the process ended before {doing}", by_model=False)
        answer = self._exchange(process, replace(request, drop=gone), doing, limit_s)
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _exchange(
        self, process: subprocess.Popen[bytes], request: Request, doing: str, limit_s: float | None
    ) -> Answer:
        assert process.stdin is not None and process.stdout is not None
        with _limited(process, limit_s) as overdue:
            try:
                write(request, process.stdin, self._folder)
                return _read(process.stdout)
            except EOFError:
                pass
            except OSError:
                if _code(process) is None:  # not the pipe: the file of a large model
                    self.close()
                    raise
            except BaseException:  # above all Ctrl-C: the next answer would be one to this request
                self.close()
                raise
            code = _code(process)
        self.close()
        if overdue.is_set():
            raise CrashError(f"{self._program} took more than {limit_s:.0f} s while {doing}", hung=True)
        raise _crash(code, doing, self._program)


def _by_key(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(Reference(a.key) if isinstance(a, Kept) else a for a in arguments)


def _read(stream: IO[bytes]) -> Answer:
    try:
        answer = pickle.load(stream)
    except Exception as error:  # whatever it was: unpickling what a dying process wrote raises all kinds
        raise EOFError from error
    if not isinstance(answer, Answer):
        raise EOFError
    return answer


def _code(process: subprocess.Popen[bytes]) -> int | None:
    """The end of a process that closed its pipes, in words; None where it goes on."""
    try:
        return process.wait(5)
    except subprocess.TimeoutExpired:
        return None


def _crash(code: int | None, doing: str, program: str) -> CrashError:
    """The cause of a process's death, by its return code; None where it answered what cannot be read."""
    if code is None:
        return CrashError(f"{program}'s process gave no answer while {doing}")
    if code >= 0:
        return CrashError(f"{program} ended its process with code {code:#x} while {doing}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name in FROM_OUTSIDE:
        why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return CrashError(f"{program}'s process was killed ({name}{why}) while {doing}", by_model=False)
    return CrashError(f"{program} crashed with {name} while {doing}")


@contextmanager
def _limited(process: subprocess.Popen[bytes], limit_s: float | None) -> Iterator[Event]:
    """Kills the process after that time; the event then says so. Time in which this program was stopped, by Ctrl-Z or
    with the machine, does not count."""
    done, overdue = Event(), Event()

    def watch(seconds: int) -> None:
        for _ in range(seconds):
            if done.wait(1.0):
                return
        overdue.set()
        process.kill()

    if limit_s is not None:
        Thread(target=watch, args=(max(math.ceil(limit_s), 1),), daemon=True).start()
    try:
        yield overdue
    finally:
        done.set()
