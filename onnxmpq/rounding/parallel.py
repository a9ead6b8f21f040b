"""Layers rounded side by side, in processes: the inner loops hold the interpreter, and threads gain nothing.

The processes run `rounding/worker.py`, or are those of other machines.
"""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple

from onnxmpq.cache import content_hash
from onnxmpq.isolation import launch
from onnxmpq.rounding.layer import LayerToRound
from onnxmpq.rounding.types import QuantizedWeight
from onnxmpq.tasks import Elsewhere, Task

MOST_WORKERS = 8
MOST_BYTES = 1e9
"""Memory of all processes that round, as long as more than one does."""
ONE_FORMAT = 4_000_000_000
"""Products of a layer, about 0.3 s for each format, from which on each is a task."""
Rounded = tuple[str, int, list[QuantizedWeight]]


def rounded_layers(
    layers: Iterable[LayerToRound], workers: int, elsewhere: Elsewhere | None = None
) -> Generator[Rounded]:
    """(name, first row, one result per format) of each layer or part, as they are done; few more than there are workers
    are held at once, and fewer where they are large.

    elsewhere: rounds them in the place of processes of this machine. Raises ClusterError.
    """
    if elsewhere is not None:
        yield from _rounded_elsewhere(layers, elsewhere)
        return
    workers = min(workers, MOST_WORKERS)
    started = _started(workers) if workers > 1 and launch.can_start() else []
    if not started:
        for layer in layers:
            yield layer.name, layer.first_row, layer.rounded()
        return
    with Workers(started) as pool:
        waiting: dict[Future[list[QuantizedWeight]], _Place] = {}
        for layer in layers:
            place = _Place(layer.name, layer.first_row, layer.working_bytes)
            while waiting and place.size + sum(p.size for p in waiting.values()) > MOST_BYTES:
                yield from _finished(waiting)
            waiting[pool.submit(layer)] = place
            while len(waiting) > workers:
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)


def _rounded_elsewhere(layers: Iterable[LayerToRound], elsewhere: Elsewhere) -> Iterator[Rounded]:
    """A large layer is a task for each format, so that no single one takes longest by far."""
    waiting: dict[tuple[str, int], dict[int, QuantizedWeight]] = {}
    counts: dict[tuple[str, int], int] = {}
    part_of: dict[str, tuple[int, ...]] = {}

    def tasks() -> Iterator[Task[list[QuantizedWeight]]]:
        for layer in layers:
            counts[layer.name, layer.first_row] = len(layer.formats)
            for numbers in _numbers(layer):
                task = _task(layer if len(numbers) == len(layer.formats) else layer.only(numbers))
                part_of[task.key] = numbers
                yield task

    for task, weights in elsewhere.run(tasks()):
        place = task.arguments[0].name, task.arguments[0].first_row
        if place not in counts:
            continue
        found = waiting.setdefault(place, {})
        found.update(zip(part_of[task.key], weights, strict=True))
        if len(found) == counts[place]:
            del waiting[place], counts[place]
            yield *place, [found[number] for number in sorted(found)]


def _numbers(layer: LayerToRound) -> list[tuple[int, ...]]:
    """Of the formats that a task rounds together."""
    everything = tuple(range(len(layer.formats)))
    return [(n,) for n in everything] if layer.products >= ONE_FORMAT else [everything]


def _task(layer: LayerToRound) -> Task[list[QuantizedWeight]]:
    return Task(content_hash("round", layer), f"rounding layer {layer.name}", LayerToRound.rounded, (layer,))


class _Place(NamedTuple):
    """Of what is being rounded, and the bytes that it takes."""

    name: str
    first_row: int
    size: int


def _finished(waiting: dict[Future[list[QuantizedWeight]], _Place]) -> Iterator[Rounded]:
    """Waits for at least one."""
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        place = waiting.pop(future)
        yield place.name, place.first_row, future.result()


class Workers:
    """Processes, each led by a thread that waits for its answers. A layer whose process fails is rounded here."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._threads, self._ended = ThreadPoolExecutor(len(processes)), False
        self._processes = processes
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def submit(self, layer: LayerToRound) -> Future[list[QuantizedWeight]]:
        return self._threads.submit(self._round, layer)

    def _round(self, layer: LayerToRound) -> list[QuantizedWeight]:
        process = self._idle.get()
        try:
            return _asked(process, layer)
        except Exception:  # whatever it was: unpickling raises all kinds
            process.kill()  # or its next answer might be one to this question
            if self._ended:
                raise CancelledError from None
            return layer.rounded()
        finally:
            self._idle.put(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()


def _asked(process: subprocess.Popen[bytes], layer: LayerToRound) -> list[QuantizedWeight]:
    assert process.stdin is not None and process.stdout is not None
    pickle.dump(layer, process.stdin, pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()
    found: list[QuantizedWeight] = pickle.load(process.stdout)
    return found


def _started(count: int) -> list[subprocess.Popen[bytes]]:
    """As many of them as the system allows."""
    processes = []
    for _ in range(count):
        try:
            processes.append(launch.start("onnxmpq.rounding.worker"))
        except OSError:  # no process more, no pipe more, or this user may not run the interpreter
            break
    return processes
