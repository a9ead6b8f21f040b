"""Effects measured in tasks: some targets of one group each, which any process can do that has the model.

A process keeps its walk through the graph from one task to the next, so each runs the fp32 model about once, however
many tasks it does; within blocks not even that, as who hands the tasks out walks for all. Groups, and what each session
shows, are those of `measure.py`, and so are the numbers.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary

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
Mark = tuple[int, list[dict[str, Array]]]
"""A place that a `ForwardPass` has come to."""
MARK_BYTES = 64 * 2**20
"""Most that a mark may hold: the tensors that are alive there, of all samples."""
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
    travelling, led = replace(scene, layout=worker.layout), _Lead(elsewhere, scene, worker)
    with shared_model(elsewhere, model) as model_there, elsewhere.shared(scene.key, travelling) as there, led:
        pieces: dict[str, _Piece] = {}

        def made(piece: _Piece) -> Task[tuple[Changes, list[Caught]]]:
            targets = piece.targets
            layers = {r.name for t in targets if (r := worker.targets[t]) is not None}
            tried = worker.tries.only(layers, targets)
            others = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
            about = f"measuring sensitivity at {next(iter(sorted(layers)), targets[0])}{others}"
            key = content_hash("effects of", scene.key, piece.number, tried)
            pieces[key] = piece
            arguments = model_there, there, piece.number, tried, led.mark(piece.number)
            return Task(key, about, measured, arguments, (lambda: list(map(made, piece.halves))) if others else None)

        for task, (changes, caught) in elsewhere.run(map(made, led.along(_pieces(worker, elsewhere.width)))):
            tick(task.arguments[3].count)
            led.done(pieces[task.key])
            yield pieces[task.key].place, changes, caught


@dataclass(frozen=True)
class _Piece:
    """Some of the targets of a group. start: number of the first."""

    number: int
    targets: tuple[str, ...]
    start: int

    @property
    def place(self) -> Place:
        return self.number, self.start

    @property
    def halves(self) -> list[_Piece]:
        half = len(self.targets) // 2
        return [replace(self, targets=self.targets[:half]), _Piece(self.number, self.targets[half:], self.start + half)]


class _Lead:
    """Walks ahead of all others and leaves marks: a worker goes on from the mark of its group, and need not walk there
    by itself. Only for goals within the graph, where a run of the model is a large part of the work and few bytes are
    alive at the end of a block; not where one worker does everything, and walks but once."""

    def __init__(self, elsewhere: Elsewhere, scene: Scene, worker: EffectsWorker) -> None:
        self.elsewhere, self.key, self.worker = elsewhere, scene.key, worker
        held = max(worker.layout.inner.values(), default=0) * len(scene.feeds)
        self.leads = len(scene.goals) > 1 and elsewhere.width > 1 and held <= MARK_BYTES
        self.marks: dict[int, Any] = {}
        self.left: dict[int, set[str]] = {}
        self.stacks: dict[int, ExitStack] = {}

    def along(self, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
        """The same, each with its mark once somebody wants it."""
        prefix, reached, pieces = self.worker.prefix(), 0, list(pieces)
        for piece in pieces:
            self.left.setdefault(piece.number, set()).update(piece.targets)
        for piece in pieces:
            while self.leads and reached < piece.number:
                self.worker.skip(reached, prefix)
                reached += 1
                self._leave(reached, prefix.mark())
            yield piece

    def _leave(self, number: int, mark: Mark) -> None:
        """Before the group of this number, if it has any tasks."""
        self.leads = sum(value.nbytes for kept in mark[1] for value in kept.values()) <= MARK_BYTES
        if self.leads and mark[0] and number in self.left:
            self.stacks[number] = ExitStack()
            shared = self.elsewhere.shared(content_hash("mark", self.key, number), mark)
            self.marks[number] = self.stacks[number].enter_context(shared)

    def mark(self, number: int) -> Any:
        """None where there is none."""
        return self.marks.get(number)

    def done(self, piece: _Piece) -> None:
        """Forgets a mark that no other task needs."""
        self.left[piece.number].difference_update(piece.targets)
        if not self.left[piece.number] and piece.number in self.stacks:
            del self.marks[piece.number]
            self.stacks.pop(piece.number).close()

    def __enter__(self) -> _Lead:
        return self

    def __exit__(self, *_: object) -> None:
        for stack in self.stacks.values():
            stack.close()


def effects_of(frame: Frame, changes: Changes) -> Effects:
    """Findings of a task, at the tensors of `frame`."""
    weights, activations, params, inputs, kernels = (changes[name] for name in _FIELDS)
    return Effects(frame.divergence, frame.reference, weights, activations, params, inputs, kernels)


def _pieces(worker: EffectsWorker, width: int) -> Iterator[_Piece]:
    """In the order of the graph: what comes first has most of it behind it, and takes longest. Of a group about the
    same work each."""
    used, work = worker.used(), _work(worker)
    count = 1 if width == 1 else -(-TASKS_PER_WORKER * width // max(len(used), 1))
    for number, targets in used.items():
        whole, before, found = sum(work[t] for t in targets), 0, dict[int, list[str]]()
        for target in targets:
            found.setdefault(int(count * (before + work[target] / 2) / whole), []).append(target)
            before += work[target]
        start = 0
        for some in found.values():
            yield _Piece(number, tuple(some), start)
            start += len(some)


def _work(worker: EffectsWorker) -> dict[str, int]:
    """Of each target: perturbations, times the nodes behind it that they run through."""
    tries = worker.tries
    of_layer = Counter(name for name, _ in (*tries.weights, *tries.inputs, *tries.kernels))
    found = {}
    for number, group in enumerate(worker.groups):
        for target in group:
            region = worker.targets[target]
            count = of_layer[region.name] if region is not None else 0
            count += len(tries.activations.get(target, ()))
            found[target] = max(count, 1) * max(worker.goal_of(number).stop - worker.cutter.position(target), 1)
    return found


class _Walk:
    """Through one scene: before the group `next`."""

    def __init__(self, scene: Scene, model: Model, tries: Perturbations) -> None:
        self.caught: list[Caught] = []
        self.worker = scene.worker(model, tries, self.caught)
        self.prefix, self.next = self.worker.prefix(), 0


class _Walks(threading.local):
    """This thread's. It ends with its scene, which is there while there are tasks of it."""

    def __init__(self) -> None:
        self.of = WeakKeyDictionary[Scene, _Walk]()


_walks = _Walks()


def measured(
    model: Model, scene: Scene, number: int, tries: Perturbations, mark: Mark | None = None
) -> tuple[Changes, list[Caught]]:
    """Effects of `tries`, all of which show up in the group of this number, and what the scene wants to be caught.

    mark: of a walk that has come to the group before this one.
    """
    walk = _walks.of.pop(scene, None)  # whatever fails on the way: the next task walks anew
    if walk is None:
        _walks.of.clear()  # one at a time
        walk = _Walk(scene, model, tries)
    worker = walk.worker
    if mark is not None and number != walk.next:
        walk.prefix.back(mark)
        walk.next = number
    if number < walk.next:
        walk.prefix, walk.next = worker.prefix(), 0
    while walk.next < number:
        worker.skip(walk.next, walk.prefix)
        walk.next += 1
    before = walk.prefix.mark()
    worker.tries = tries
    walk.caught.clear()
    part = worker.measured(number, walk.prefix)
    walk.prefix.back(before)  # the next task may be of the same group
    _walks.of[scene] = walk
    return {name: getattr(part, name) for name in _FIELDS}, list(walk.caught)


def _catch(catcher: Catcher, caught: list[Caught], tried: Try, rows: slice, made: Mapping[str, Array]) -> None:
    found = catcher.caught(tried, rows, made)
    if found is not None:
        caught.append((tried, *found))
