"""One model on many samples: several runs at a time, each on one thread, results in the order of the samples.

A session with several threads may cut a sum in other places: onnxruntime 1.22 and 1.32 return other last bits for a
product of two activations [64, 1000] x [1000, 100] on two threads than on one. Values that decide on anything come
from sessions with one thread, so that they do not depend on how many cores the machine has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import onnx

from onnxmpq.errors import ModelError
from onnxmpq.execution.expose import whole, with_outputs
from onnxmpq.execution.memory import MEMORY, MemoryBudget
from onnxmpq.feeds import Array, Feeds
from onnxmpq.model import WeightStore
from onnxmpq.runtimes import Session, SessionSettings, open_session, run

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_samples(
    graph: onnx.ModelProto | WeightStore,
    feeds: Feeds,
    tensors: Sequence[str] | None = None,
    *,
    shown: Sequence[str] | None = None,
    threads: int = 1,
    settings: SessionSettings | None = None,
) -> Iterator[list[Array]]:
    """Per sample, in order, the values of these tensors of a graph; of its outputs if None.

    shown: all tensors that the session makes visible, which are not fused away and so have part in the last bits of all
    values; None for `tensors`. threads: samples that run side by side. settings: of the session, which gets one
    thread. Raises ModelError.
    """
    visible = shown if shown is not None else tensors
    single = replace(settings or SessionSettings(), threads=1, mapped=True)
    session = open_session(whole(graph) if visible is None else with_outputs(graph, visible), single)
    del graph  # it need not stay in memory while the session does
    yield from runs_of(session, feeds, tensors, threads)


def runs_of(
    session: Session, feeds: Feeds, outputs: Sequence[str] | None = None, threads: int = 1
) -> Iterator[list[Array]]:
    """Per sample, in order, outputs of an open session (None for all), `threads` runs side by side.

    Raises ModelError, with the sample where not all have the same shapes.
    """

    def work(number: int) -> list[Array]:
        try:
            return run(session, feeds.batch([number]), outputs)
        except ModelError as error:
            if not feeds.ragged:
                raise
            shapes = ", ".join(f"'{n}' {list(v[number].shape)}" for n, v in feeds.ragged.items())
            raise ModelError(f"sample {feeds.label(number)} ({shapes}): {error}", error.blamed) from error

    return in_order(work, range(len(feeds)), threads)


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`work` of every item, in their order; at most `threads` are worked on or wait to be taken.

    Raises what `work` raises, at the item's place.
    """
    if threads < 2:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(waiting) == threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def at_a_time(threads: int, bytes_each: int, memory: MemoryBudget = MEMORY) -> int:
    """Number of runs side by side with outputs of this size: as many as there are threads and room, one at least."""
    return max(1, min(threads, memory.running // max(bytes_each, 1)))
