"""One model on many samples: several runs at a time, each on one thread, results in the order of the samples.

A session with several threads may cut a sum in other places: onnxruntime 1.22 and 1.32 return other last bits for a
product of two activations [64, 1000] x [1000, 100] on two threads than on one. Values that decide on anything come
from sessions with one thread, so that they do not depend on how many cores the machine has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

IN_FLIGHT_BYTES = 384 * 2**20  # values of runs side by side
Item = TypeVar("Item")
Result = TypeVar("Result")


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


def at_a_time(threads: int, bytes_each: int) -> int:
    """How many runs of so many bytes may be side by side: as many as there are threads and room, one at least."""
    return max(1, min(threads, IN_FLIGHT_BYTES // max(bytes_each, 1)))
