"""Moments measured in tasks: the sums of some tensors of a chunk each, in the session that shows the whole chunk.

Each task runs the fp32 model over all samples; the products of what layers read take several times as long.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, MemoryBudget
from onnxmpq.feeds import Feeds
from onnxmpq.keys import feeds_hash, model_hash
from onnxmpq.model import Model
from onnxmpq.statistics.moments import Key, Moments, chunks, measure_moments, readers, rows_per_sample, summed
from onnxmpq.tasks import Elsewhere, Task
from onnxmpq.travelling import shared_model

SESSION_BYTES = 5
"""Per byte of a model, while a session is opened that holds all of it: the model, its graph as text, what the runtime
reads, and what it makes of that for its kernels (docs/cluster.md has measurements)."""


def spread_moments(
    elsewhere: Elsewhere,
    model: Model,
    weights: Collection[str],
    feeds: Feeds,
    *,
    threads: int = 1,
    memory: MemoryBudget = MEMORY,
    believed: bool = False,
) -> Iterator[tuple[str, Moments]]:
    """As `measure_moments`, with the same bits, done by `elsewhere`.

    What takes longest to round comes first, as far as it is there, so that no worker begins with it when the others
    have ended. Where several layers share a weight the order is that of `measure_moments`: who adds theirs up gets the
    same sums.

    A model that is never whole in memory is measured here, on `threads`, and so is one whose session is too large for
    who does tasks. Raises ClusterError.
    """
    held = SESSION_BYTES * sum(model.store.lengths()) + memory.sums + memory.shown
    if model.store.spill is not None or held > elsewhere.task_bytes:
        yield from measure_moments(model, weights, feeds, threads=threads, memory=memory, believed=believed)
        return
    read, samples = readers(model), feeds_hash(feeds)
    wanted = {key: found for key, names in read.items() if (found := [n for n in names if n in weights])}
    in_order = any(name in model.shared_weights for name in weights)

    def work(key: Key) -> int:
        places = [model.weights[name][1] for name in wanted[key]]
        return key[1].inputs ** 2 * (key[1].inputs + max(place.out_channels for place in places))

    common = content_hash("moments", model_hash(model), samples)
    with shared_model(elsewhere, model) as model_there, elsewhere.shared(samples, feeds) as feeds_there:
        for chunk in chunks(model, feeds, list(read), memory):
            parts = pieces([key for key in chunk if key in wanted], elsewhere.width)
            tasks = [
                Task(
                    content_hash(common, chunk, piece, believed),
                    f"moments of what layer {wanted[piece[0]][0]} reads",
                    measured_sums,
                    (model_there, feeds_there, piece, [tensor for tensor, _ in chunk], believed),
                )
                for piece in (parts if in_order else sorted(parts, key=lambda piece: -max(map(work, piece))))
            ]
            for measured in (_in_order if in_order else _as_done)(elsewhere, tasks):
                for key, moments in measured if in_order else sorted(measured, key=lambda row: -work(row[0])):
                    for name in wanted[key]:
                        yield name, moments


Measured = list[tuple[Key, Moments]]


def _as_done(elsewhere: Elsewhere, tasks: Sequence[Task[list[Moments]]]) -> Iterator[Measured]:
    seen = set[str]()
    for task, moments in elsewhere.run(tasks):
        if task.key not in seen:
            seen.add(task.key)
            yield list(zip(task.arguments[2], moments, strict=True))


def _in_order(elsewhere: Elsewhere, tasks: Sequence[Task[list[Moments]]]) -> Iterator[Measured]:
    """In the order of the tasks, as soon as those of all before are there."""
    place = {task.key: number for number, task in enumerate(tasks)}
    found: dict[int, list[Moments]] = {}
    due = 0
    for task, moments in elsewhere.run(tasks):
        if place[task.key] >= due:
            found[place[task.key]] = moments
        while due in found:
            yield list(zip(tasks[due].arguments[2], found.pop(due), strict=True))
            due += 1


def pieces(keys: Sequence[Key], count: int) -> list[list[Key]]:
    """At most `count` stretches of about the same number of products."""
    work = [view.groups * view.inputs**2 for _, view in keys]
    whole, before, found = sum(work), 0, dict[int, list[Key]]()
    for key, own in zip(keys, work, strict=True):
        found.setdefault(int(count * (before + own / 2) / whole), []).append(key)
        before += own
    return list(found.values())


def measured_sums(
    model: Model, feeds: Feeds, keys: Sequence[Key], shown: Sequence[str], believed: bool
) -> list[Moments]:
    """Moments of what these keys read, in a session that shows the tensors `shown`; one thread."""
    sums = summed(model, keys, shown, feeds, rows_per_sample(len(feeds)), 1, lambda _: None)
    return [sums.pop(key).result(believed=believed) for key in keys]
