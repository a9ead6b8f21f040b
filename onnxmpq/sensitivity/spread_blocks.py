"""Effects by blocks in tasks: perturbations within blocks, then changes that are carried on to the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, Cutter, MemoryBudget, OpenPart
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.sensitivity.carry import Carried, Carrier, Walk, Way
from onnxmpq.sensitivity.divergence import Code
from onnxmpq.sensitivity.effects import Effects, Frame
from onnxmpq.sensitivity.measure import EffectsWorker, Goal, Tick
from onnxmpq.sensitivity.spread import Changes, Place, Scene, effects_of, spread_tasks
from onnxmpq.tasks import Elsewhere, Task
from onnxmpq.travelling import shared_model

PIECES_PER_WORKER = 2
Moving = list[tuple[int, Carried]]
"""Numbers of blocks, and changes at their exits."""


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
        places: dict[str, Moving] = {}
        tasks = []
        for number, piece in enumerate(_pieces(moving, len(way.blocks), PIECES_PER_WORKER * elsewhere.width)):
            key = content_hash(spread.key, "carried", len(moving), elsewhere.width, number)
            about = f"carrying changes behind block {piece[0][0] + 1} to the outputs"
            tasks.append(Task(key, about, carried, (model_there, way_there, piece)))
            places[key] = piece
        for task, codes in elsewhere.run(tasks):
            for (_, change), code in zip(places[task.key], codes, strict=True):
                change.change[:] = code
                change.values.clear()


def _pieces(moving: Moving, blocks: int, count: int) -> list[Moving]:
    """Stretches with about the same number of blocks ahead."""
    ahead = [blocks - number for number, _ in moving]
    whole, before, found = max(sum(ahead), 1), 0, dict[int, Moving]()
    for row, own in zip(moving, ahead, strict=True):
        found.setdefault(int(count * (before + own / 2) / whole), []).append(row)
        before += own
    return list(found.values())


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
