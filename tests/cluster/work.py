"""Functions for workers, which find them by name, and runs of them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from onnxmpq.cluster import connected
from onnxmpq.progress import Progress, Silent
from onnxmpq.tasks import Task, current


class Heard(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    detail = warn = say


def doubled(value: Any, more: int = 0) -> Any:
    return 2 * value + more


def fails(value: int) -> int:
    raise ValueError(f"no {value}")


def fails_on(address: str, value: int) -> int:
    """At once on one worker, while others take some time."""
    from distributed import get_worker  # noqa: PLC0415

    if get_worker().address == address:
        raise OSError("a broken disk")
    time.sleep(0.1)
    return value


def fails_first(folder: str, value: int) -> int:
    """Fails for the first worker that comes."""
    try:
        os.mkdir(os.path.join(folder, str(value)))
    except FileExistsError:
        return value
    raise ValueError("not yet")


def dies_first(folder: str, value: int) -> int:
    try:
        os.mkdir(os.path.join(folder, f"died {value}"))
    except FileExistsError:
        return value
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dies(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(value)


def where(_number: int) -> str:
    from distributed import get_worker  # noqa: PLC0415

    return str(get_worker().address)


def naps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def tasks(function: Any, rows: list[tuple[Any, ...]]) -> list[Task[Any]]:
    return [Task(f"{function.__name__} {n}", f"layer {n}", function, row) for n, row in enumerate(rows)]


def run(client: Any, made: list[Task[Any]], heard: Progress | None = None, **more: Any) -> dict[str, Any]:
    with connected(client, heard or Silent(), **more):
        elsewhere = current()
        assert elsewhere is not None
        return {task.about: result for task, result in elsewhere.run(made)}
