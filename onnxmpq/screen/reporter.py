"""Reports while a command works: log lines on stderr; on a terminal, bars with the time left.

Without a terminal every stage has a line at its start and one at its end, never wrapped. On a terminal stages are bars,
and lines wrap at words.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from onnxmpq.progress import LOGGER, Progress, Tick, duration
from onnxmpq.screen.outlook import Outlook

REFRESHES_PER_S = 4
EARLY = 0.05  # share of a stage below which its speed says little
ALMOST = 0.97  # share at which a bar waits that follows an estimate
RUN = "whole run"
_LEVELS = {(False, False): logging.INFO, (True, False): logging.DEBUG}


def reporter(*, quiet: bool = False, verbose: bool = False) -> Progress:
    """Send what the library logs to stderr, and draw bars if that is a terminal.

    quiet: warnings alone, no bars. verbose: how results came about as well.
    """
    console = Console(stderr=True)
    drawn = console.is_terminal and not quiet
    for handler in [h for h in LOGGER.handlers if isinstance(h, _Lines)]:
        LOGGER.removeHandler(handler)
    LOGGER.addHandler(_Lines(console, stages=verbose or not drawn))
    LOGGER.setLevel(_LEVELS.get((verbose, quiet), logging.WARNING))
    return Bars(console) if drawn else Progress()


class _Lines(logging.Handler):
    """Log records as lines. stages: also those that say when a stage starts and ends."""

    def __init__(self, console: Console, *, stages: bool) -> None:
        super().__init__()
        self._console, self._stages = console, stages

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "stage") and not self._stages:
            return
        warns = record.levelno >= logging.WARNING
        text = f"warning: {record.getMessage()}" if warns else record.getMessage()
        style = "bold yellow" if warns else "dim" if record.levelno < logging.INFO else None
        whole = not self._console.is_terminal  # a line is a line, for grep
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=whole)


class Bars(Progress):
    """A bar for each stage, and one line for the whole run once the time that is left can be told."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds since some moment."""
        self._console, self._outlook, self._clock = console, Outlook(), clock
        self._table: _Table | None = None

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        with super().stage(what, total), self._drawn() as table:
            task = table.begin(what, total)
            try:
                yield lambda steps: table.advance(task, steps)
            finally:
                table.end(task)

    def expect(self, seconds: Mapping[str, float]) -> None:
        super().expect(seconds)
        self._outlook.expect(seconds)

    @contextmanager
    def _drawn(self) -> Iterator[_Table]:
        """The table of bars, which is gone when the outermost stage ends."""
        if self._table is not None:
            yield self._table
            return
        with _Table(self._console, self._outlook, self._clock) as self._table:
            try:
                yield self._table
            finally:
                self._table = None


class _Table(RichProgress):
    """The bars on the screen: of the stages that run, and the time that the run has left."""

    def __init__(self, console: Console, outlook: Outlook, clock: Callable[[], float]) -> None:
        self._outlook = outlook  # first: the constructor asks for what is to be drawn
        what = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        columns = (what, BarColumn(bar_width=20), TextColumn("{task.fields[done]}"), _Left())
        super().__init__(
            *columns, console=console, transient=True, expand=True, refresh_per_second=REFRESHES_PER_S, get_time=clock
        )

    def begin(self, what: str, total: int) -> TaskID:
        """A bar; of a stage whose number of steps is not known it follows the estimate, if there is one."""
        self._outlook.began(what)
        task = self.add_task(what, total=total or None, done="", left=None, steps=total)
        self._follow()
        return task

    def end(self, task: TaskID) -> None:
        [row] = [t for t in self.tasks if t.id == task]
        self._outlook.ended(row.description, row.elapsed or 0.0)
        self.remove_task(task)

    def get_renderables(self) -> Iterator[RenderableType]:
        self._follow()
        yield from super().get_renderables()
        running = self.tasks
        if self._outlook.known and running:
            first = running[0]
            left = duration(self._outlook.left_s(first.description, first.fields["left"]))
            yield Text(f"{RUN}: about {left} left", style="dim")

    def _follow(self) -> None:
        """Bring shares and times left up to date."""
        for task in self.tasks:
            elapsed, expected = task.elapsed or 0.0, self._outlook.stage_s(task.description)
            if not task.fields["steps"] and expected:
                task.total, task.completed = expected, min(elapsed, ALMOST * expected)
            share = task.completed / task.total if task.total else None
            task.fields["done"] = "" if share is None else f"{share:.0%}"
            task.fields["left"] = _left_s(elapsed, share, expected)


def _left_s(elapsed_s: float, share: float | None, expected_s: float | None) -> float | None:
    """Seconds that a stage has left: by the speed so far, or by the estimate while that is too early to tell."""
    if share and (share >= EARLY or expected_s is None):
        return elapsed_s * (1.0 - share) / share
    return None if expected_s is None else max(expected_s - elapsed_s, 0.0)


class _Left(ProgressColumn):
    """Time taken and time left of a stage."""

    def render(self, task: Task) -> Text:
        taken, left = f"{task.elapsed or 0.0:.0f} s", task.fields["left"]
        return Text(taken if left is None else f"{taken}, {duration(left)} left", style="progress.remaining")
