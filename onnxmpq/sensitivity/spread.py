"""Effects measured in tasks: some targets of one group each, which any process can do that has the model.

A process keeps its walk through the graph from one task to the next, so each runs the fp32 model about once, however
many tasks it does. Groups, and what each session shows, are those of `measure.py`, and so are the numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, MemoryBudget
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations
from onnxmpq.sensitivity.measure import EffectsWorker, Keep, Tick
from onnxmpq.tasks import Elsewhere, Task

TASKS_PER_WORKER = 6  # at least, where there are so many targets: they take different times
Changes = Mapping[str, dict[Any, Any]]
"""The dicts of `Effects`, by field; divergence and reference are known to who asks."""
_FIELDS = ("weights", "activations", "params", "inputs", "kernels")


@dataclass(frozen=True, eq=False)
class Scene:
    """All that tasks of one measurement have in common. key: hash of it."""

    key: str
    model: Model
    feeds: Feeds
    frame: Frame
    batch: int | None
    memory: MemoryBudget

    def worker(self, tries: Perturbations) -> EffectsWorker:
        """With one thread, as several tasks may run side by side."""
        return EffectsWorker(self.model, self.feeds, tries, self.frame, 1, self.batch, self.memory, lambda _: None)


def spread_effects(
    elsewhere: Elsewhere,
    key: str,
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    frame: Frame,
    *,
    batch: int | None = None,
    memory: MemoryBudget = MEMORY,
    tick: Tick = lambda _: None,
    keep: Keep = lambda _: None,
) -> Effects:
    """As `measure_effects`, done by `elsewhere`. key: hash of model, samples and frame. Raises ClusterError."""
    travelling = model if elsewhere.sees_files else replace(model, store=model.store.resident())
    scene = Scene(content_hash(key, batch, memory), travelling, feeds, frame, batch, memory)
    worker = scene.worker(tries)
    effects = worker.none()
    with elsewhere.shared(scene.key, scene) as there:
        for task, changes in elsewhere.run(_tasks(scene.key, there, worker, elsewhere.width)):
            weights, activations, params, inputs, kernels = (changes[name] for name in _FIELDS)
            part = Effects(frame.divergence, frame.reference, weights, activations, params, inputs, kernels)
            effects.update(part)
            keep(part)
            tick(task.arguments[2].count)
    return effects


def _tasks(key: str, there: Any, worker: EffectsWorker, width: int) -> Iterator[Task[Changes]]:
    """In the order of the graph: what comes first has most of it behind it, and takes longest."""
    used, tries = worker.used(), worker.tries
    pieces = 1 if width == 1 else -(-TASKS_PER_WORKER * width // max(len(used), 1))
    for number, targets in used.items():
        step = -(-len(targets) // pieces)
        for start in range(0, len(targets), step):
            some = targets[start : start + step]
            layers = {r.name for t in some if (r := worker.targets[t]) is not None}
            tried = tries.only(layers, some)
            others = f" and {len(some) - 1} more" if len(some) > 1 else ""
            about = f"measuring sensitivity at {next(iter(sorted(layers)), some[0])}{others}"
            yield Task(content_hash("effects of", key, number, tried), about, measured, (there, number, tried))


class _Walk(threading.local):
    """This thread's walk through one scene: before the group `next`."""

    key = ""
    worker: EffectsWorker
    prefix: Any
    next = 0


_walk = _Walk()


def measured(scene: Scene, number: int, tries: Perturbations) -> Changes:
    """Effects of `tries`, all of which show up in the group of this number."""
    if _walk.key != scene.key:
        _walk.key, _walk.worker, _walk.next = scene.key, scene.worker(tries), 0
        _walk.prefix = _walk.worker.prefix()
    worker = _walk.worker
    if number < _walk.next:
        _walk.prefix, _walk.next = worker.prefix(), 0
    while _walk.next < number:
        worker.skip(_walk.next, _walk.prefix)
        _walk.next += 1
    before = _walk.prefix.mark()
    worker.tries = tries
    try:
        part = worker.measured(number, _walk.prefix)
    finally:
        _walk.prefix.back(before)  # the next task may be of the same group
    return {name: getattr(part, name) for name in _FIELDS}
