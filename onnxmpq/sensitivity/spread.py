"""Effects measured in tasks: some targets of one group each, which any process can do that has the model.

A process keeps its walk through the graph from one task to the next, so each runs the fp32 model about once, however
many tasks it does. Groups, and what each session shows, are those of `measure.py`, and so are the numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, MemoryBudget
from onnxmpq.feeds import Array, Feeds
from onnxmpq.model import Model
from onnxmpq.sensitivity.carry import Catcher
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, Try
from onnxmpq.sensitivity.measure import EffectsWorker, Goal, Keep, Layout, Tick
from onnxmpq.tasks import Elsewhere, Task
from onnxmpq.travelling import shared_model

TASKS_PER_WORKER = 6  # at least, where there are so many targets: they take different times
Changes = Mapping[str, dict[Any, Any]]
"""The dicts of `Effects`, by field; divergence and reference are known to who asks."""
Place = tuple[int, int]
"""Number of a group, and of the first of its targets."""
Caught = tuple[Try, slice, Array]
"""A perturbation, its samples, and what it makes of the exit of its block."""
_FIELDS = ("weights", "activations", "params", "inputs", "kernels")


@dataclass(frozen=True, eq=False)
class Scene:
    """All that tasks of one measurement have in common, beside the model. key: hash of it and of the model.

    goals: where changes are compared if not at the outputs alone. catchers: of all goals but the last, for tensors that
    are sent back. layout: known to who hands out the tasks.
    """

    key: str
    feeds: Feeds
    frame: Frame
    batch: int | None
    memory: MemoryBudget
    goals: tuple[Goal, ...] = ()
    catchers: tuple[Catcher, ...] = ()
    layout: Layout | None = None

    def worker(self, model: Model, tries: Perturbations, caught: list[Caught]) -> EffectsWorker:
        """With one thread, as several tasks may run side by side. caught: takes what the catchers pick."""
        inner = [catcher.exit for catcher in self.catchers]
        given = self.feeds, tries, self.frame, 1, self.batch, self.memory
        made = EffectsWorker(model, *given, lambda _: None, inner, self.layout)
        picking = (partial(_catch, catcher, caught) for catcher in self.catchers)
        if self.goals:
            made.goals = [replace(g, caught=c) for g, c in zip_longest(self.goals, picking)]
        return made


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
    scene = Scene(content_hash(key, batch, memory), feeds, frame, batch, memory)
    worker = scene.worker(model, tries, [])
    effects, parts = worker.none(), dict[Place, Effects]()
    for place, changes, _ in spread_tasks(elsewhere, scene, model, worker, tick):
        parts[place] = effects_of(frame, changes)
        keep(parts[place])
    for place in sorted(parts):  # sums over them follow their order
        effects.update(parts[place])
    return effects


def spread_tasks(
    elsewhere: Elsewhere, scene: Scene, model: Model, worker: EffectsWorker, tick: Tick
) -> Iterator[tuple[Place, Changes, list[Caught]]]:
    """Per task, as they are done: its place in the graph, and what it found.

    worker: of the scene, with all that is to be tried. tick: counts perturbations done. Raises ClusterError.
    """
    travelling = replace(scene, layout=worker.layout)
    with shared_model(elsewhere, model) as model_there, elsewhere.shared(scene.key, travelling) as there:
        places: dict[str, Place] = {}

        def made(number: int, targets: Sequence[str], start: int) -> Task[tuple[Changes, list[Caught]]]:
            layers = {r.name for t in targets if (r := worker.targets[t]) is not None}
            tried = worker.tries.only(layers, targets)
            others = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
            about = f"measuring sensitivity at {next(iter(sorted(layers)), targets[0])}{others}"
            key = content_hash("effects of", scene.key, number, tried)
            places[key] = number, start
            arguments = model_there, there, number, tried
            return Task(key, about, measured, arguments, halves(number, targets, start) if len(targets) > 1 else None)

        def halves(number: int, targets: Sequence[str], start: int) -> Callable[[], list[Task[Any]]]:
            half = len(targets) // 2
            return lambda: [made(number, targets[:half], start), made(number, targets[half:], start + half)]

        for task, (changes, caught) in elsewhere.run(made(*piece) for piece in _pieces(worker, elsewhere.width)):
            tick(task.arguments[3].count)
            yield places[task.key], changes, caught


def effects_of(frame: Frame, changes: Changes) -> Effects:
    """Findings of a task, at the tensors of `frame`."""
    weights, activations, params, inputs, kernels = (changes[name] for name in _FIELDS)
    return Effects(frame.divergence, frame.reference, weights, activations, params, inputs, kernels)


def _pieces(worker: EffectsWorker, width: int) -> Iterator[tuple[int, list[str], int]]:
    """Groups, some of the targets in them, and the number of the first, in the order of the graph: what comes first has
    most of it behind it, and takes longest."""
    used = worker.used()
    pieces = 1 if width == 1 else -(-TASKS_PER_WORKER * width // max(len(used), 1))
    for number, targets in used.items():
        step = -(-len(targets) // pieces)
        for start in range(0, len(targets), step):
            yield number, targets[start : start + step], start


class _Walk(threading.local):
    """This thread's walk through one scene: before the group `next`."""

    key = ""
    worker: EffectsWorker
    caught: list[Caught]
    prefix: Any
    next = 0


_walk = _Walk()


def measured(model: Model, scene: Scene, number: int, tries: Perturbations) -> tuple[Changes, list[Caught]]:
    """Effects of `tries`, all of which show up in the group of this number, and what the scene wants to be caught."""
    if _walk.key != scene.key:
        _walk.key, _walk.caught, _walk.next = scene.key, [], 0
        _walk.worker = scene.worker(model, tries, _walk.caught)
        _walk.prefix = _walk.worker.prefix()
    worker = _walk.worker
    if number < _walk.next:
        _walk.prefix, _walk.next = worker.prefix(), 0
    while _walk.next < number:
        worker.skip(_walk.next, _walk.prefix)
        _walk.next += 1
    before = _walk.prefix.mark()
    worker.tries = tries
    _walk.caught.clear()
    try:
        part = worker.measured(number, _walk.prefix)
    finally:
        _walk.prefix.back(before)  # the next task may be of the same group
    return {name: getattr(part, name) for name in _FIELDS}, list(_walk.caught)


def _catch(catcher: Catcher, caught: list[Caught], tried: Try, rows: slice, made: Mapping[str, Array]) -> None:
    found = catcher.caught(tried, rows, made)
    if found is not None:
        caught.append((tried, *found))
