"""Work that other machines may do: calls that any process can make, and who makes them.

Rooms with much to compute (first rounding, effects) hand their work out as tasks where the context names somebody to do
it, and else use the processes and threads of this machine. No result depends on which it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Task(Generic[Result]):
    """`function(*arguments)`: a function of a module, and arguments that can be pickled. Those that `Elsewhere.shared`
    gave stand for their values.

    key: hash of all that the result depends on. about: what it does and at which layer, for messages. smaller: makes
    tasks that do the same together, for workers that do not live long enough; None where it cannot be divided. Their
    results may come in the place of this one's.
    """

    key: str
    about: str
    function: Callable[..., Result]
    arguments: tuple[Any, ...]
    smaller: Callable[[], Sequence[Task[Result]]] | None = None


class Elsewhere(Protocol):
    """Does tasks, on machines whose results have the same bits as this one's."""

    @property
    def width(self) -> int:
        """Number of tasks that run at the same time, at least 1."""
        ...

    @property
    def sees_files(self) -> bool:
        """True if tasks may read files by this machine's paths."""
        ...

    @property
    def task_bytes(self) -> float:
        """Memory that a task may take, with all that was shared; infinite where nobody knows."""
        ...

    def shared(self, key: str, value: Any, *, lasting: bool = False) -> AbstractContextManager[Any]:
        """A stand-in for a value that many tasks need: it travels once to each machine.

        key: hash of the value. lasting: it stays there until another lasting one comes, for a later block that shares
        it again.
        """
        ...

    def run(self, tasks: Iterable[Task[Result]]) -> Iterator[tuple[Task[Result], Result]]:
        """Tasks with their results, as they are done. Of `tasks` only so many are taken as are about to run.

        Raises ClusterError, with what the task is about, for one that fails again and again.
        """
        ...


class Here:
    """Does tasks in this process, one after the other, when they are asked for."""

    width, sees_files, task_bytes = 1, True, math.inf

    @contextmanager
    def shared(self, key: str, value: Any, *, lasting: bool = False) -> Iterator[Any]:
        yield value

    def run(self, tasks: Iterable[Task[Result]]) -> Iterator[tuple[Task[Result], Result]]:
        for task in tasks:
            yield task, task.function(*task.arguments)


_installed: list[Elsewhere] = []


def current() -> Elsewhere | None:
    """Who does tasks in the innermost `done_by` block; None where this machine's own processes and threads do."""
    return _installed[-1] if _installed else None


@contextmanager
def done_by(elsewhere: Elsewhere) -> Iterator[None]:
    """A block whose contexts hand their tasks to `elsewhere`."""
    _installed.append(elsewhere)
    try:
        yield
    finally:
        _installed.remove(elsewhere)
