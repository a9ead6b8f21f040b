"""Who does tasks in tests, in the place of a cluster."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from onnxmpq.tasks import Task


class Shuffled:
    """Does tasks in any order, some of them twice or divided, each on copies as another process would have them, what
    was shared on one and the same."""

    sees_files = False

    def __init__(self, width: int, seed: int, task_bytes: float = math.inf) -> None:
        self.task_bytes = task_bytes
        self.width, self.random, self.done = width, random.Random(seed), 0
        self.there: list[Any] = []

    @contextmanager
    def shared(self, key: str, value: Any, *, lasting: bool = False) -> Iterator[Any]:
        copy = _copy(value)
        self.there.append(copy)
        yield copy
        self.there = [other for other in self.there if other is not copy]

    def run(self, tasks: Iterable[Task[Any]]) -> Iterator[tuple[Task[Any], Any]]:
        listed = [part for task in tasks for part in self._divided(task)]
        assert len({t.key for t in listed}) == len(listed)
        for task in self.random.sample(listed * 2, 2 * len(listed)):
            given = [a if any(a is value for value in self.there) else _copy(a) for a in task.arguments]
            self.done += 1
            yield task, _copy(task.function(*given))

    def _divided(self, task: Task[Any]) -> list[Task[Any]]:
        if task.smaller is None or self.random.random() < 0.5:
            return [task]
        return [part for smaller in task.smaller() for part in self._divided(smaller)]


def _copy(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))
