"""Effects block by block: linear in depth, where one suffix of the graph for each perturbation is quadratic.

A perturbation is run to the exit of its block (`blocks.py`), where its change is measured (`streams.py`). A few of each
block are carried on to the outputs (`carry.py`); how much divergence they make there is the block's gain (`gains.py`),
which all others of the block take. Changes in the last block, and those that reach behind their block in other ways
than through its exit, are measured at the outputs.

Changes are kept as codes whose squares add up to the divergence, so they superpose as those of the full method do:
exactly to the exit of a block, and across blocks as far as a stream carries changes on unchanged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, Cutter, MemoryBudget
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.sensitivity.blocks import Block, find_blocks
from onnxmpq.sensitivity.carry import Carrier, Way, first_rows
from onnxmpq.sensitivity.divergence import Code
from onnxmpq.sensitivity.effect_samples import doubts_of, share_of, spread_by_doubt
from onnxmpq.sensitivity.effects import ByBlocks, Effects, Frame, Perturbations, Try, sketch_width
from onnxmpq.sensitivity.gains import Arrival, Gain, fit_gains
from onnxmpq.sensitivity.measure import EffectsWorker, Goal, Tick, measure_effects, perturbable
from onnxmpq.sensitivity.pooled import PooledDivergence
from onnxmpq.sensitivity.spread import spread_effects
from onnxmpq.sensitivity.spread_blocks import Spread, spread_carry, spread_parts
from onnxmpq.sensitivity.streams import StreamDivergence, stream_frames

CARRY = 2.0  # runs of the rest of the graph, relative to those within blocks
FEWEST_CARRIED = 3  # perturbations of a block, and samples
CARRIED_SAMPLES = 8


def model_blocks(model: Model, outputs: Sequence[str] | None = None) -> tuple[Block, ...]:
    """The blocks that effects of a model are measured in. outputs: tensors that are compared, None for its outputs."""
    return find_blocks(Cutter(model.store, outputs), perturbable(model))


def measure_by_blocks(
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    frame: Frame,
    *,
    threads: int = 1,
    memory: MemoryBudget = MEMORY,
    tick: Tick = lambda _: None,
    spread: Spread | None = None,
) -> Effects:
    """Effects of all perturbations, measured block by block; those of `measure_effects` where there is one block.

    frame: fitted to the same samples. tick: counts perturbations done. spread: who does it, None for this process.
    Raises ClusterError.
    """
    blocks = model_blocks(model, frame.divergence.tensors)
    if len(blocks) > 1:
        doubts = doubts_of(frame.divergence, frame.reference)
        order = spread_by_doubt(doubts, feeds, CARRIED_SAMPLES)
        ordered = Frame(frame.divergence, frame.reference[order])
        found = _ByBlocks(
            model, feeds.take(order), tries, ordered, blocks, doubts[order], threads, memory, tick, spread
        ).run()
        assert found.by_blocks is not None
        about = replace(found.by_blocks, pooled=found.by_blocks.pooled.around(frame.reference))  # whatever the order
        return replace(_with_codes(found, lambda _, change: change[np.argsort(order)]), by_blocks=about)
    if spread is not None:
        return spread_effects(spread.elsewhere, spread.key, model, feeds, tries, frame, memory=memory, tick=tick)
    return measure_effects(model, feeds, tries, threads=threads, frame=frame, memory=memory, tick=tick)


class _ByBlocks:
    def __init__(
        self,
        model: Model,
        feeds: Feeds,
        tries: Perturbations,
        frame: Frame,
        blocks: Sequence[Block],
        doubts: NDArray[np.float64],
        threads: int,
        memory: MemoryBudget,
        tick: Tick,
        spread: Spread | None,
    ) -> None:
        self.doubts = doubts
        self.model, self.feeds, self.frame, self.blocks, self.spread = model, feeds, frame, blocks, spread
        self.threads, self.memory, self.tick = threads, memory, tick
        self.width = sketch_width(len(feeds), tries.count)
        layers = {r.name: r.outputs[0] for r in model.layers}
        self.targets = targets = {t: t.key if t.kind == "activation" else layers[t.key[0]] for t in tries.by_try}
        far = frozenset(t for block in blocks for t in block.far)
        self.far = tries.among({t for t, target in targets.items() if target in far})
        self.tries = tries.among({t for t, target in targets.items() if target not in far})
        exits = [b.exit for b in blocks if b.exit is not None]
        self.worker = EffectsWorker(model, feeds, self.tries, frame, threads, None, memory, tick, exits)
        place, stops = self.worker.cutter.position, [b.stop for b in blocks]
        self.of_block: list[list[Try]] = [[] for _ in blocks]
        for tried in (t for t in self.tries.by_try if targets[t] in self.worker.targets):
            self.of_block[bisect_right(stops, place(targets[tried]))].append(tried)
        self.made: list[list[int]] = [[] for _ in blocks]  # numbers of views
        for number, view in enumerate(frame.divergence.views):
            if view.width and place(view.name) >= 0:
                self.made[bisect_right(stops, place(view.name))].append(number)

    def run(self) -> Effects:
        carrier = self._carrier()
        *parts, exact = self._parts(carrier)
        exact.update(self._reaching_far())
        known = {t: exact.pooled.per_sample(self.frame.reference, c) for t, c in exact.by_try.items()}
        arrived = [carrier.arrived(i) for i in range(len(parts))]
        few = PooledDivergence.fitted(
            self.frame.divergence, self.frame.reference, [c for row in arrived for c in row.values()]
        )
        level = self._level(exact, len(carrier.way.feeds))
        found = zip(parts, arrived, strict=True)
        best, gains = fit_gains([self._arrivals(part, row, few, level) for part, row in found])
        about = ByBlocks(
            few.at_level(level),
            frozenset[str]().union(*(part.idle for part in (*parts, exact))),
            {str(block.exit): gain for block, gain in zip(self.blocks, gains, strict=False)},
            self.width,
        )
        nothing = np.zeros((len(self.feeds), self.width), np.float32)
        effects = Effects(self.frame.divergence, nothing, {}, {}, {}, by_blocks=about)
        for part, gain in zip(parts, gains, strict=True):
            effects.update(_with_codes(part, partial(self._of_stream, part, best, gain, exact)))
        effects.update(_with_codes(exact, lambda tried, change: self._of_outputs(known[tried], change)))
        return effects

    def _parts(self, carrier: Carrier) -> list[Effects]:
        """Changes at the exit of each block, and at the outputs for the last one."""
        tensors = [[self.frame.divergence.views[i].name for i in made] for made in self.made]
        width = max(self.width // 2, 1)
        frames = stream_frames(
            self.model, self.blocks, self.feeds, self.frame, self.made, width=width, threads=self.threads
        )
        goals = [
            Goal(f, b.start, b.stop, tuple(dict.fromkeys((str(b.exit), *t))))
            for b, f, t in zip(self.blocks, frames, tensors, strict=False)
        ]
        last = self.blocks[-1]
        goals.append(Goal(self.frame, last.start, last.stop, tuple(tensors[-1])))
        if self.spread is None:
            return self._measured_parts(goals, carrier)
        self.worker.goals = goals
        found = spread_parts(
            self.spread, self.model, self.feeds, self.frame, goals, self.worker, carrier, self.tick, self.memory
        )
        spread_carry(self.spread, self.model, carrier)
        return found

    def _measured_parts(self, goals: Sequence[Goal], carrier: Carrier) -> list[Effects]:
        """In this process; what is carried on follows block by block."""
        to_carry = [partial(carrier.catch, number) for number in range(len(goals) - 1)]
        self.worker.goals = [replace(goal, caught=catch) for goal, catch in zip_longest(goals, to_carry)]
        found = [goal.nothing() for goal in goals]

        def keep(part: Effects) -> None:
            number = next(i for i, effects in enumerate(found) if effects.divergence is part.divergence)
            found[number].update(part)
            carrier.close(number)

        self.worker.run(keep)
        carrier.close(len(self.blocks))
        return found

    def _reaching_far(self) -> Effects:
        """Effects of what changes other tensors behind its block than the exit, at the outputs."""
        if not self.far.count:
            return self.worker.none()
        if self.spread is None:
            return measure_effects(
                self.model,
                self.feeds,
                self.far,
                threads=self.threads,
                frame=self.frame,
                memory=self.memory,
                tick=self.tick,
            )
        return spread_effects(
            self.spread.elsewhere,
            content_hash(self.spread.key, "far"),
            self.model,
            self.feeds,
            self.far,
            self.frame,
            memory=self.memory,
            tick=self.tick,
        )

    def _carrier(self) -> Carrier:
        views = self.frame.divergence.views
        rows, most = self._carried()
        made = tuple(tuple(views[i].name for i in numbers) for numbers in self.made)
        feeds = self.feeds.take(range(rows[-1].stop))
        way = Way(feeds, self.frame, tuple(self.blocks), made, tuple(rows))
        chosen = [frozenset(_mixed(names, self.targets, most)) for names in (*self.of_block[:-1], [])]
        return Carrier(self.worker.cutter, way, chosen, self.threads)

    def _carried(self) -> tuple[list[slice], int]:
        """(batches on which changes are carried on, number of changes of each block).

        Within blocks, P perturbations run half a block each on N samples; K changes of each of B blocks run half of the
        graph on n samples. So K n = CARRY P N / B², and K is no more than tensors at which several formats are tried,
        which all take the gain of one of them: a change that stands for itself alone costs as much and gains less.
        """
        count = len(self.blocks)
        runs = int(CARRY * self.tries.count * len(self.feeds) / count**2)
        largest = max(self.worker.layout.inner.values(), default=1)  # exits are what is kept
        runs = min(runs, self.memory.kept // max(largest * count, 1))
        counts = [Counter(self.targets[t] for t in names) for names in self.of_block]
        most = max(FEWEST_CARRIED, *(sum(n > 1 for n in count.values()) for count in counts))
        samples = min(max(runs // most, FEWEST_CARRIED), CARRIED_SAMPLES, len(self.feeds))
        rows = [first_rows(r, samples) for r in self.worker.rows if r.start < samples]
        return rows, min(max(runs // samples, FEWEST_CARRIED), most)

    def _level(self, exact: Effects, few: int) -> float:
        """Divergence on all samples relative to that on the first few: a classifier's by doubt, else that of changes
        which are known on all."""
        if self.doubts.any():
            return share_of(self.doubts, range(few))
        reference, divergence = self.frame.reference, self.frame.divergence
        return level_of([divergence.per_sample(reference, c) for c in exact.by_try.values()], few)

    def _arrivals(
        self, part: Effects, arrived: Mapping[Try, Code], few: PooledDivergence, level: float
    ) -> list[Arrival]:
        """Of what was carried on from a block. few: divergence on these samples. level: of that on all, relative to
        it."""
        divergence, changes = part.divergence, part.by_try
        assert isinstance(divergence, StreamDivergence)
        found = []
        for tried, change in arrived.items():
            rows = slice(0, len(change))
            sizes = [
                divergence.of_view(m, part.reference[rows], code[rows])
                for m, code in enumerate(divergence.parts(changes[tried])[: divergence.measures])
            ]
            reached = level * few.per_sample(self.frame.reference[rows], change)
            found.append(Arrival(self.targets[tried], np.array(sizes), reached))
        return found

    def _of_stream(self, part: Effects, best: int, gain: Gain, exact: Effects, tried: Try, change: Code) -> Code:
        """The code of a change at the exit of a block, with that of outputs made in the block."""
        divergence = part.divergence
        assert isinstance(divergence, StreamDivergence)
        codes = divergence.parts(change)
        measure = min(best, divergence.measures - 1)
        factor = np.float32(np.sqrt(gain.of(self.targets[tried]) / divergence.views[measure].elements))
        code = self._laid_out(factor * codes[measure])
        if len(codes) > divergence.measures:
            outputs = self._columns(divergence, codes)
            code += self._of_outputs(exact.pooled.per_sample(self.frame.reference, outputs), outputs)
        return code

    def _columns(self, divergence: StreamDivergence, codes: Sequence[Code]) -> Code:
        """Changes of the outputs that are made in a block, among those of all outputs."""
        own = dict(
            zip([v.name for v in divergence.views[divergence.measures :]], codes[divergence.measures :], strict=True)
        )
        empty = np.zeros((len(self.feeds), 0), np.float32)
        return np.concatenate(
            [own.get(v.name, np.zeros((len(empty), v.width), np.float32)) for v in self.frame.divergence.views], axis=1
        )

    def _of_outputs(self, divergence: NDArray[np.float64], change: Code) -> Code:
        """The code of a change of the outputs: its square is the divergence, float64 [samples]."""
        square = np.square(change.astype(np.float64)).sum(axis=1)
        factor = np.sqrt(np.maximum(divergence, 0.0) / np.maximum(square, np.finfo(np.float64).tiny))
        return self._laid_out(np.asarray(change * factor[:, None], np.float32))

    def _laid_out(self, code: Code) -> Code:
        """In `width` columns: as it is where it fits, else several entries a column, with random signs."""
        count = code.shape[1]
        if count <= self.width:
            wide = np.zeros((len(code), self.width), np.float32)
            wide[:, :count] = code
            return wide
        generator = np.random.default_rng(0)
        bucket = generator.integers(0, self.width, count)
        signed = code * generator.choice(np.array([-1.0, 1.0], np.float32), count)
        return np.stack([np.bincount(bucket, row, self.width) for row in signed]).astype(np.float32)


def _with_codes(effects: Effects, changed: Callable[[Try, Code], Code]) -> Effects:
    """The same with other codes of all changes."""
    return replace(
        effects,
        weights={k: changed(Try("weight", k), c) for k, c in effects.weights.items()},
        activations={t: changed(Try("activation", t), c) for t, c in effects.activations.items()},
        inputs={k: changed(Try("input", k), c) for k, c in effects.inputs.items()},
        kernels={k: changed(Try("kernel", k), c) for k, c in effects.kernels.items()},
    )


def level_of(divergences: Sequence[NDArray[np.float64]], few: int) -> float:
    """Divergence on all samples relative to that on the first few: the median of changes that are known on all, each
    float64 [samples]; 1 without any. Samples of which the model is sure diverge less than others under any change."""
    found = [d.mean() / d[:few].mean() for d in divergences if d[:few].mean() > 0.0]
    return float(np.median(found)) if found else 1.0


def _mixed(tries: Sequence[Try], targets: Mapping[Try, str], most: int) -> list[Try]:
    """At most so many perturbations of a block: one of each target, those with weights first, of any of the formats;
    then further ones."""
    generator = np.random.default_rng(len(tries))
    shuffled = [sorted(tries)[i] for i in generator.permutation(len(tries))]
    seen: dict[str, int] = {}
    turns = []
    for tried in sorted(shuffled, key=lambda t: t.kind == "activation"):
        turn = seen[targets[tried]] = seen.get(targets[tried], -1) + 1
        turns.append((turn, tried))
    return [tried for _, tried in sorted(turns, key=lambda pair: pair[0])[:most]]
