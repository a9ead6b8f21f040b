"""Progress of long stages, as the pipeline reports it; the command line draws it, others may ignore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int], None]


class Progress:
    """Reports nothing. Subclasses draw."""

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        """A stage of `total` steps; the tick counts steps done."""
        yield lambda _: None

    def say(self, message: str) -> None:
        """A line for the user about what was found or done."""

    def warn(self, message: str) -> None:
        """A line the user must not miss."""
