"""The child: calls functions for its parent, one after the other, until the parent closes the pipe or ends."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from threadpoolctl import threadpool_limits

from onnxmpq.isolation.heap import release_memory
from onnxmpq.isolation.messages import OWN_FOLDER, Answer, Reference, Request, portable, write


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends this process
    requests, answers = _private_pipes()
    inbox: SimpleQueue[Request | Exception] = SimpleQueue()
    Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    import_module("onnxmpq.quality")  # with onnxruntime, while the parent still reads the model
    threadpool_limits(1, user_api="blas")  # as in the parent: several threads cut sums as the machine has cores
    kept: dict[int, Any] = {}
    while True:
        request = inbox.get()
        if isinstance(request, Exception):  # the rest of that request cannot be told from the next one
            write(Answer(error=portable(request)), answers)
            return
        _reply(_answer(request, kept), answers)
        del request  # what it holds may be large
        release_memory()


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes, moved away from standard input and output: native code prints there."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (for the life of the process)
    return requests, answers


def _listen(requests: IO[bytes], inbox: SimpleQueue[Request | Exception]) -> None:
    """Read requests in a thread of its own, which also notices the parent's end while a function hangs."""
    while True:
        try:
            inbox.put(pickle.load(requests))
        except EOFError:  # the parent was killed: it ends this process before it closes the pipe
            if OWN_FOLDER in os.environ:
                shutil.rmtree(os.environ[OWN_FOLDER], ignore_errors=True)
            os._exit(0)
        except Exception as error:
            inbox.put(error)
            return


def _answer(request: Request, kept: dict[int, Any]) -> Answer:
    for key in request.drop:
        kept.pop(key, None)
    arguments = [kept[a.key] if isinstance(a, Reference) else a for a in request.arguments]
    try:
        result = request.function(*arguments)
    except Exception as error:
        return Answer(error=portable(error))
    if request.keep is None:
        return Answer(result)
    kept[request.keep] = result
    return Answer()


def _reply(answer: Answer, answers: IO[bytes]) -> None:
    try:
        write(answer, answers)
    except (BrokenPipeError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main()
