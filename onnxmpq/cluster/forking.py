"""The process that workers of `local:N` are forked from: Python's fork server, as a copy of this program where that is
safe.

A copy has all that tasks need from the start. A new Python imports it again, 1.3 s of CPU.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, resource_tracker, util
from pathlib import Path
from typing import Any, NoReturn

from threadpoolctl import threadpool_limits

from onnxmpq.progress import LOGGER

PRELOADED = "onnxmpq.cluster.preloaded"
FORKS = sys.platform == "linux"
MEMORY = {"MALLOC_TRIM_THRESHOLD_": 2**28, "MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TOP_PAD_": 2**24}
"""Bytes. Dask gives freed memory back to the system above 64 KB. Each array over 128 KB then comes from there page by
page, which makes tasks a tenth slower; so it does, to a lesser degree, by what glibc begins with."""
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}
"""Numbers of the same settings in `mallopt` (glibc's malloc.h), for a process that runs already."""
MOST_COPIED = 2**29
"""Bytes of this program's own memory up to which it is copied: what it gives back later, its copies still hold."""
COPIES = sys.version_info < (3, 14)
"""From 3.14 on clients of the server show it a key, which it gets as it starts."""


def server_runs(environment: Mapping[str, object]) -> bool:
    """Starts the fork server, unless the program has one: what it has imported and how it keeps memory are settled
    then. It stays until the program ends. environment: variables for it and the processes that it forks. False where
    there can be none."""
    if not FORKS:
        return False
    given = {name: str(value) for name, value in {**environment, **MEMORY}.items()}
    try:
        if not (_may_copy() and _copied(given)):
            _started(given)
    except OSError:  # no process more, or this user may not run the interpreter
        return False
    return True


# ---- a new Python ------------------------------------------------------------------------------


def _started(environment: Mapping[str, str]) -> None:
    home = str(Path(__file__).parents[2])
    given = {
        **environment,
        "PYTHONHASHSEED": "6640",  # as Dask has it
        "PYTHONPATH": os.pathsep.join([home, *filter(None, sys.path)]),
        "PYTHONSAFEPATH": "1",  # this package, not one that lies in the current folder
    }
    with _environment(given):
        multiprocessing.set_forkserver_preload([PRELOADED])
        forkserver.ensure_running()


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in given}
    try:
        os.environ.update(given)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# ---- a copy of this program --------------------------------------------------------------------


def _server() -> Any:
    return forkserver._forkserver  # has no public name


def _may_copy() -> bool:
    """True as long as there is no server, no thread that would be missing from a copy, and little in memory."""
    alone = threading.active_count() == 1 and threading.current_thread() is threading.main_thread()
    return COPIES and alone and _server()._forkserver_pid is None and _own_bytes() <= MOST_COPIED


def _own_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else MOST_COPIED + 1


def _copied(environment: Mapping[str, str]) -> bool:
    """As `forkserver.ensure_running`, with a copy in the place of a new Python. False if there were threads of a
    library in this program, such as those of open sessions."""
    __import__(PRELOADED)
    resource_tracker.ensure_running()
    util._flush_std_streams()  # type: ignore[attr-defined]  # or a copy would write what waits once more
    with socket.socket(socket.AF_UNIX) as listener:
        address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        alive_r, alive_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            _serve(listener.detach(), alive_r, environment)
        os.close(alive_r)
    if len(os.listdir("/proc/self/task")) > 1:  # BLAS ends its own before a fork
        os.close(alive_w)
        os.waitpid(pid, 0)
        return False
    server = _server()
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive_w, pid
    return True


def _serve(listener: int, alive: int, environment: Mapping[str, str]) -> NoReturn:
    """In the copy; never returns to what this program was doing."""
    try:
        gc.freeze()  # pages that nobody writes to stay shared
        _close_all_but({0, 1, 2, listener, alive})
        _forget_handlers()
        os.environ.update(environment)
        _keep_memory(environment)
        threadpool_limits(1, user_api="blas")
        forkserver.main(listener, alive, [])
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    """Files and pipes are the program's: it may wait for their end. Their numbers stay taken, as objects that came with
    the copy may close them later."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in {int(name) for name in os.listdir("/proc/self/fd")} - kept - {nothing}:
        with suppress(OSError):
            os.fstat(number)  # that of the list is closed by now
            os.dup2(nothing, number)


def _forget_handlers() -> None:
    """Of signals and of log lines, which reach the client in other ways."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    LOGGER.handlers.clear()
    for logger in (LOGGER, logging.getLogger("distributed")):
        logger.setLevel(logging.NOTSET)


def _keep_memory(environment: Mapping[str, str]) -> None:
    with suppress(OSError, AttributeError):  # not every C library has it
        for name, number in _MALLOPT.items():
            ctypes.CDLL(None).mallopt(number, int(environment[name]))
