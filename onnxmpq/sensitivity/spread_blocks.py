"""Effects by blocks in tasks: perturbations within blocks, then changes that are carried on to the outputs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from weakref import WeakKeyDictionary

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, Cutter, MemoryBudget, OpenPart
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.sensitivity.carry import Batch, Carried, Carrier, Walk, Way
from onnxmpq.sensitivity.divergence import Code
from onnxmpq.sensitivity.effects import Effects, Frame
from onnxmpq.sensitivity.measure import EffectsWorker, Goal, Tick
from onnxmpq.sensitivity.spread import Changes, Place, Scene, effects_of, spread_tasks
from onnxmpq.tasks import Elsewhere, Task
from onnxmpq.travelling import shared_model

Moving = list[tuple[int, Carried]]
"""Numbers of blocks, and changes at their exits."""
LATER, LATER_PER_WORKER = 0.2, 8
"""Share of what is carried that is handed out in short pieces at the end, and how many for each worker."""


@dataclass(frozen=True, eq=False)
class Leg:
    """A change at the exit of a block, on the samples of one batch."""

    block: int
    carried: Carried
    batch: Batch


@dataclass(frozen=True)
class Spread:
    """Who does the tasks, and a hash of the model, the samples, the frame and all that is tried."""

    elsewhere: Elsewhere
    key: str


def spread_parts(
    spread: Spread,
    model: Model,
    feeds: Feeds,
    frame: Frame,
    goals: Sequence[Goal],
    worker: EffectsWorker,
    carrier: Carrier,
    tick: Tick,
    memory: MemoryBudget = MEMORY,
) -> list[Effects]:
    """Of each goal, the effects of all that `worker` is to try, as one process finds them; the carrier gets what it
    takes on. Raises ClusterError."""
    scene = Scene(content_hash(spread.key, "blocks"), feeds, frame, None, memory, tuple(goals), carrier.catchers)
    number = {id(goal): place for place, goal in enumerate(worker.goals)}
    results: dict[Place, tuple[int, Changes]] = {}
    for place, changes, caught in spread_tasks(spread.elsewhere, scene, model, worker, tick):
        block = number[id(worker.goal_of(place[0]))]
        results[place] = block, changes
        for tried, rows, value in caught:
            carrier.hold(block, tried, rows, value)
    found = [goal.nothing() for goal in goals]
    for _, (block, changes) in sorted(results.items(), key=lambda result: result[0]):
        found[block].update(effects_of(goals[block].frame, changes))
    return found


def spread_carry(spread: Spread, model: Model, carrier: Carrier) -> None:
    """Takes all that the carrier holds to the outputs. Raises ClusterError."""
    elsewhere, way, moving = spread.elsewhere, carrier.way, carrier.moving()
    with (
        shared_model(elsewhere, model) as model_there,
        elsewhere.shared(content_hash(spread.key, "way"), way) as way_there,
    ):
        places: dict[str, list[Leg]] = {}

        def made(piece: list[Leg]) -> Task[list[Code]]:
            key = content_hash(spread.key, "carried", [number[id(leg)] for leg in piece])
            about = f"carrying changes behind block {piece[0].block + 1} to the outputs"
            places[key], half = piece, len(piece) // 2
            smaller = (lambda: [made(piece[:half]), made(piece[half:])]) if half else None
            alone = [(g.block, Carried(g.carried.change, {g.batch: g.carried.values[g.batch]})) for g in piece]
            return Task(key, about, carried, (model_there, way_there, alone), smaller)

        legs = [Leg(block, change, batch) for block, change in moving for batch in change.values]
        number = {id(leg): n for n, leg in enumerate(legs)}
        for task, codes in elsewhere.run(map(made, pieces(legs, len(way.blocks), len(way.rows), elsewhere.width))):
            for leg, code in zip(places[task.key], codes, strict=True):
                rows = slice(*leg.batch)
                leg.carried.change[rows] = code[rows]
        for _, change in moving:
            change.values.clear()


def pieces(legs: Sequence[Leg], blocks: int, opening: int, count: int) -> list[list[Leg]]:
    """Stretches for `count` workers. First one for each, which take about the same time: a worker opens the blocks
    ahead of its first leg, and takes all its legs through those ahead of them. Then short ones for whoever is done:
    they begin so late that their blocks are open everywhere. opening: legs that pass through a block in the time that
    it takes to open it."""
    ahead = [blocks - leg.block - 1 for leg in legs]
    if count == 1:
        return [list(legs)] if legs else []
    place = bisect_left(list(accumulate(ahead)), sum(ahead) * (1.0 - LATER))
    first, later = legs[:place], legs[place:]
    least, most = 0, sum(ahead) + opening * blocks
    while least < most:  # the shortest time in which so many workers are done
        limit = (least + most) // 2
        least, most = (least, limit) if len(_stretches(first, blocks, opening, limit)) <= count else (limit + 1, most)
    short = math.ceil(sum(ahead[place:]) / (LATER_PER_WORKER * count))
    return _stretches(first, blocks, opening, most) + _stretches(later, blocks, 0, short)


def _stretches(legs: Sequence[Leg], blocks: int, opening: int, limit: int) -> list[list[Leg]]:
    """As many legs in each as the limit allows, at least one."""
    found: list[list[Leg]] = []
    left = 0
    for leg in legs:
        ahead = blocks - leg.block - 1
        if not found or ahead > left:
            found.append([])
            left = limit - opening * ahead
        found[-1].append(leg)
        left -= ahead
    return found


@dataclass(frozen=True)
class _Opened:
    """Of a model along a way, for the next task. parts: None where they take too much memory together."""

    cutter: Cutter
    parts: dict[int, OpenPart] | None

    @classmethod
    def of(cls, model: Model, way: Way) -> _Opened:
        cutter = Cutter(model.store, way.frame.divergence.tensors)
        return cls(cutter, {} if sum(model.store.lengths()) <= MEMORY.weights else None)


_opened: WeakKeyDictionary[Way, _Opened] = WeakKeyDictionary()
"""As long as this process has the way, which is while there are tasks along it."""


def carried(model: Model, way: Way, moving: Moving) -> list[Code]:
    """Changes of the outputs; one thread."""
    # a walk uses up what it carries, and the task may be done once more
    moving = [(block, Carried(change.change.copy(), dict(change.values))) for block, change in moving]
    if (there := _opened.get(way)) is None:
        there = _opened[way] = _Opened.of(model, way)
    walk = Walk(there.cutter, way, 1, there.parts)
    for number in range(1, len(way.blocks)):
        walk.through(number, [change for block, change in moving if block < number])
    return [change.change for _, change in moving]
