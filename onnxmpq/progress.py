"""Progress of long stages, remarks and warnings: to Python's `logging`, or to whoever subclasses `Progress`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Tick = Callable[[int], None]
LOGGER = logging.getLogger("onnxmpq")
"""All that the library says. It has no handlers of its own; without any, Python prints warnings to stderr."""

ROUNDING = "rounding for the layers' inputs"
SENSITIVITY = "measuring sensitivity"
UNSEEN = "trying plans on unseen samples"
CHOOSING = "choosing a plan"
SEQUENCE = "rounding the plan in sequence"
COMPARING = "comparing the result with the original"
TIMING = "timing the result beside the original"
BESIDE = "timing with other threads, comparing with plain int8"
"""Stages of a conversion once costs are known, in their order."""


class Progress:
    """Is told what a conversion does. This class logs it to the logger `onnxmpq`; subclasses may draw it.

    A subclass overrides what it wants to know of. It calls the method of this class to have it logged as well::

        class Bar(onnxmpq.progress.Progress):
            @contextmanager
            def stage(self, what, total):
                with super().stage(what, total), tqdm(desc=what, total=total or None) as bar:
                    yield bar.update

        onnxmpq.convert("model.onnx", progress=Bar())
    """

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        """A stage of `total` steps, 0 where their number is not known; the tick counts steps done.

        Level INFO: a line at the start, and one at the end with the time in seconds.
        """
        steps, start = f" ({total} steps)" if total else "", time.perf_counter()
        LOGGER.info("start: %s%s", what, steps, extra={"stage": what})
        try:
            yield lambda _: None
        except BaseException:
            LOGGER.info("stopped: %s after %.1f s", what, time.perf_counter() - start, extra={"stage": what})
            raise
        LOGGER.info("done: %s in %.1f s", what, time.perf_counter() - start, extra={"stage": what})

    def expect(self, seconds: Mapping[str, float]) -> None:
        """The stages that are still to come, with estimates of the seconds that they will take. Level INFO."""
        LOGGER.info("about %s left", duration(sum(seconds.values())), extra={"stage": ""})

    def say(self, message: str) -> None:
        """A line for the user about what was found or done. Level INFO."""
        LOGGER.info("%s", message)

    def detail(self, message: str) -> None:
        """A line for those who want to know how a result came about. Level DEBUG."""
        LOGGER.debug("%s", message)

    def warn(self, message: str) -> None:
        """A line the user must not miss. Level WARNING."""
        LOGGER.warning("%s", message)


class Remembering(Progress):
    """Passes everything on to another one. warnings: all of them, each once, for documents that hold them as well."""

    def __init__(self, told: Progress | None = None) -> None:
        self._told = told or Progress()
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        with self._told.stage(what, total) as tick:
            yield tick

    def expect(self, seconds: Mapping[str, float]) -> None:
        self._told.expect(seconds)

    def say(self, message: str) -> None:
        self._told.say(message)

    def detail(self, message: str) -> None:
        self._told.detail(message)

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
        self._told.warn(message)


class Silent(Progress):
    """Says nothing."""

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        yield lambda _: None

    def expect(self, seconds: Mapping[str, float]) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def detail(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 25 s, 2 min, 1 h 10 min, no finer than estimates are."""
    if seconds < 57:
        return f"{max(round(seconds) if seconds < 20 else 5 * round(seconds / 5), 1)} s"
    minutes = max(round(seconds / 60), 1)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
