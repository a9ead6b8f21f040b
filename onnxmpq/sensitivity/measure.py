"""Measures one-at-a-time effects, in graph order, a group of neighbouring tensors at a time.

A group ends at a checkpoint: a place in the node order. For each target a small session runs the nodes between it and
the checkpoint; one large session, shared by the group, runs the rest from the tensors that are live there, as far as
the group reaches it. All of a group is run on a few batches before the next ones, so that what is held of the fp32
model does not grow with the samples.

Groups, batches and what each session shows follow from the model and the samples alone: not from what is tried, from
what else is tried beside it, nor from the number of threads. So the effect of a perturbation is the same number in
every menu, and whether others were found in the cache; what is fused and summed in one go decides its last bits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice

import numpy as np

from onnxmpq.execution import MEMORY, NOTHING, Cutter, ForwardPass, MemoryBudget, OpenPart, Part, values_once
from onnxmpq.feeds import Array, Feeds
from onnxmpq.model import Model, Region
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, fit_frame
from onnxmpq.sensitivity.output_kinds import OutputKind
from onnxmpq.sensitivity.trial import Catch, Trial

GROUP = 16  # targets that share one session for the rest of the graph
BATCHES = 2  # held at once; after every second one, ranges that are clearly worse than others drop out
MOST_AT_A_TIME = 8  # samples in one run
RUN_BYTES = 2 * 2**20
"""Of the largest tensor in a run of several samples: what a core's own cache holds."""
Tick = Callable[[int], None]
Keep = Callable[[Effects], None]


def measure_effects(
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    *,
    threads: int = 1,
    batch: int | None = None,
    kinds: Mapping[str, OutputKind] | None = None,
    frame: Frame | None = None,
    memory: MemoryBudget = MEMORY,
    tick: Tick = lambda _: None,
    keep: Keep = lambda _: None,
) -> Effects:
    """Effects of all perturbations on these samples; `tick` counts perturbations done.

    threads: runs side by side, each on one thread: the operators of small models share threads badly.
    batch: samples in one run; None for as many as the model's activations suggest. frame: fitted on the same samples
    before, for effects that are to be added to others'. keep: gets the effects in parts, as soon as each is complete.
    """
    frame = frame or fit_frame(model, feeds, tries.count, threads=threads, kinds=kinds or {})
    return EffectsWorker(model, feeds, tries, frame, threads, batch, memory, tick).run(keep)


@dataclass(frozen=True)
class Goal:
    """Where changes made by the nodes from place `start` up to `stop` are compared.

    frame: of the tensors there, `tensors`. caught: is told of these tensors under each perturbation.
    """

    frame: Frame
    start: int
    stop: int
    tensors: tuple[str, ...]
    caught: Catch | None = None

    def nothing(self) -> Effects:
        """No effects yet."""
        return Effects(self.frame.divergence, self.frame.reference, {}, {}, {})


def perturbable(model: Model) -> dict[str, Region | None]:
    """Tensors that may be perturbed in graph order, each with the layer whose weights and inputs show up there."""
    found: dict[str, Region | None] = {i.name: None for i in model.structure.graph.input}
    moved = model.roots
    for region in model.regions:
        for tensor in region.outputs:
            own = region.layer is not None and tensor == region.outputs[0]
            if own or tensor not in moved:
                found[tensor] = region if own else None
    return found


@dataclass(frozen=True)
class _Group:
    """Neighbouring targets with one goal. middles: per target the nodes from it to the checkpoint; suffix: those behind
    it, up to the goal.

    needed: tensors whose fp32 values all of that reads.
    """

    targets: tuple[str, ...]
    checkpoint: int
    middles: dict[str, Part]
    suffix: Part
    needed: list[str]


@dataclass(frozen=True)
class Layout:
    """Found out by running the model. bytes: of each target in a run of the largest sample, inner: of the tensors of
    other goals. rows: of batches."""

    bytes: Mapping[str, int]
    inner: Mapping[str, int]
    rows: list[slice]


class EffectsWorker:
    """Walks through the groups of one model, on the same samples; `tries` may change between two groups.

    goals: where changes are compared, in the order of the graph and without gaps; may be set before `groups` is asked
    for. frame: of the outputs, where they are compared without. inner: tensors of other goals. layout: of a worker of
    the same model, samples, frame and inner tensors.
    """

    def __init__(
        self,
        model: Model,
        feeds: Feeds,
        tries: Perturbations,
        frame: Frame,
        threads: int,
        batch: int | None,
        memory: MemoryBudget,
        tick: Tick,
        inner: Sequence[str] = (),
        layout: Layout | None = None,
    ) -> None:
        self.model, self.feeds, self.tries, self.frame, self.tick = model, feeds, tries, frame, tick
        self.memory = memory
        self.threads, self.settings, self.cutter = (
            threads,
            SessionSettings(lean=True),
            Cutter(model.store, frame.divergence.tensors),
        )
        self.inner = inner
        self.goals = [Goal(frame, 0, len(self.cutter.index.nodes), tuple(self.cutter.outputs))]
        self.targets = perturbable(model)
        self._known_reads: dict[str, frozenset[str]] = {}
        self.layout = layout or self._layout(batch)
        self.bytes, self.rows = self.layout.bytes, self.layout.rows

    def run(self, keep: Keep) -> Effects:
        effects, prefix, used = self.none(), self.prefix(), self.used()
        for number in range(max(used, default=-1) + 1):
            if number not in used:  # walked all the same, or the next one would begin at another place
                self.skip(number, prefix)
                continue
            part = self.measured(number, prefix)
            effects.update(part)
            keep(part)
        return effects

    @cached_property
    def groups(self) -> list[list[str]]:
        """Neighbouring targets with one goal, in graph order."""
        return [group for _, group in self._groups]

    def used(self) -> dict[int, list[str]]:
        """Targets where something is tried, by the number of their group."""
        found = {number: [t for t in group if self._tried(t)] for number, group in enumerate(self.groups)}
        return {number: group for number, group in found.items() if group}

    def prefix(self) -> ForwardPass:
        """A walk that begins at the first group."""
        return ForwardPass(self.cutter, self.feeds, self.settings, rows=self.rows, memory=self.memory)

    def skip(self, number: int, prefix: ForwardPass) -> None:
        """Take a walk from the group before this one to the one behind it."""
        group, later = self._cut(number), self._behind(number)
        prefix.skip(group.checkpoint, group.needed, self._later(group, later))

    def measured(self, number: int, prefix: ForwardPass) -> Effects:
        """Effects of all that is tried in this group. prefix: a walk that has come to the group before it."""
        return self._measured(self.goal_of(number), self._cut(number), self._behind(number), prefix)

    def goal_of(self, number: int) -> Goal:
        """The goal of a group."""
        return self._groups[number][0]

    def _behind(self, number: int) -> list[str]:
        return [t for g in self.groups[number + 1 :] for t in g]

    def none(self) -> Effects:
        return Effects(self.frame.divergence, self.frame.reference, {}, {}, {})

    def _layer(self, tensor: str) -> Region | None:
        """The layer whose weights or inputs are tried at this tensor."""
        region = self.targets[tensor]
        return region if region is not None and region.name in self.tries.layers else None

    def _tried(self, tensor: str) -> bool:
        return tensor in self.tries.activations or self._layer(tensor) is not None

    def _layout(self, batch: int | None) -> Layout:
        sizes, inner = self._bytes(self.feeds.batch([self.feeds.largest]))
        growing = [size for tensor, size in sizes.items() if self._grows(tensor)]
        batch = batch or min(max(RUN_BYTES // max(growing, default=1), 1), MOST_AT_A_TIME)
        step = batch if self._stacks(self.feeds) and not self.frame.divergence.one_at_a_time else 1
        return Layout(sizes, inner, self.feeds.stretches(step))

    def _bytes(self, one: Mapping[str, Array]) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes of each target, and of each inner tensor, in a run of the largest sample."""
        made = [t for t in dict.fromkeys((*self.targets, *self.inner)) if t not in one]
        sizes = {t: v.nbytes for t, v in {**one, **values_once(self.model.store, one, made)}.items()}
        return {t: sizes[t] for t in self.targets if t in sizes}, {t: sizes[t] for t in self.inner if t in sizes}

    def _grows(self, tensor: str) -> bool:
        """False for a weight that is handed to bodies, which is as large for many samples as for one."""
        region = self.targets[tensor]
        return region is None or bool(self.cutter.reads(region))

    def _stacks(self, feeds: Feeds) -> bool:
        """True where the outputs of samples that run together come one after the other along the first axis. The states
        of a recurrent layer do not: their second axis is that of the batch."""
        if not feeds.batchable or len(feeds) < 2:
            return False
        compared = (*(v.name for v in self.frame.divergence.views if v.width), *self.inner)
        names = [name for name in compared if self.cutter.position(name) >= 0]
        one, two = (values_once(self.model.store, feeds.batch([feeds.largest] * n), names) for n in (1, 2))
        return all(
            value.ndim > 0 and two[name].shape == (2 * value.shape[0], *value.shape[1:]) for name, value in one.items()
        )

    @cached_property
    def _groups(self) -> list[tuple[Goal, list[str]]]:
        """Of each goal, neighbouring targets: at most GROUP, and fewer where they or the weights between them are
        large."""
        place, weights = self.cutter.position, np.cumsum([0, *self.cutter.weight_bytes()])
        at_once = BATCHES * max(r.stop - r.start for r in self.rows)
        found: list[tuple[Goal, list[str]]] = []
        ordered, stops = sorted(self.targets, key=place), [g.stop for g in self.goals]
        for goal, targets in groupby(ordered, key=lambda t: self.goals[bisect_right(stops, place(t))]):
            groups: list[list[str]] = [[]]
            for tensor in targets:
                group = groups[-1]
                between = weights[place(tensor) + 1] - weights[place(group[0]) + 1] if group else 0
                values = at_once * sum(self.bytes[t] for t in (*group, tensor))
                too_large = len(group) * between > self.memory.weights or values > self.memory.targets
                if group and (len(group) == GROUP or too_large):
                    groups.append([])
                groups[-1].append(tensor)
            found += [(goal, g) for g in groups]
        return found

    def _cut(self, number: int) -> _Group:
        goal, targets = self._groups[number]
        cutter = self.cutter.within(goal.start, goal.stop, goal.tensors)
        checkpoint = max(self.cutter.position(t) for t in targets) + 1
        changed = {t: self._changed(t) for t in targets}
        suffix = cutter.behind([t for row in changed.values() for t in row], checkpoint)
        middles = {t: cutter.between(changed[t], checkpoint, suffix.inputs) for t in targets}
        read = (*suffix.inputs, *(t for part in middles.values() for t in part.inputs))
        return _Group(
            tuple(targets),
            checkpoint,
            {t: part if self._tried(t) else NOTHING for t, part in middles.items()},
            suffix,
            sorted({*read, *(t for target in targets for t in self._reads(target))}),
        )

    def _later(self, group: _Group, rest: Sequence[str]) -> list[str]:
        """Tensors that the groups behind this one, with the targets `rest`, need from before its checkpoint."""
        # a later layer may have begun before the checkpoint
        begun = {t for target in rest for t in self._reads(target) if self.cutter.position(t) < group.checkpoint}
        return [*self.cutter.live(group.checkpoint), *sorted(begun)]

    def _measured(self, goal: Goal, group: _Group, rest: Sequence[str], prefix: ForwardPass) -> Effects:
        """All samples through a group's targets, whose sessions end here. rest: the targets after them."""
        suffix = OpenPart(group.suffix, SessionSettings())  # one, and run most
        trials = []
        for tensor in filter(self._tried, group.targets):
            route = OpenPart(group.middles[tensor], self.settings), suffix
            layer = self._layer(tensor)
            trials.append(Trial(tensor, layer, self.tries, route, goal.frame, self.cutter, self.settings, goal.caught))
        tries, done = sum(t.count for t in trials), 0
        batches = zip(self.rows, prefix.values(group.checkpoint, group.needed, self._later(group, rest)), strict=True)
        with ThreadPoolExecutor(self.threads) as pool:
            while some := list(islice(batches, BATCHES)):
                for running in [pool.submit(trial.run, *batch) for batch in some for trial in trials]:
                    running.result()
                seen = some[-1][0].stop
                for trial in trials:
                    trial.look(seen)
                before, done = done, tries * seen // self.rows[-1].stop
                self.tick(done - before)
        part = goal.nothing()
        for trial in trials:
            trial.add_to(part)
        return part

    def _changed(self, tensor: str) -> tuple[str, ...]:
        """A target, with the other outputs of its layer where that has several: they change with it."""
        region = self.targets[tensor]
        return region.outputs if region is not None else (tensor,)

    def _reads(self, tensor: str) -> frozenset[str]:
        """Tensors that must be known to perturb a target."""
        if tensor not in self._known_reads:
            region = self.targets[tensor]
            read = self.cutter.reads(region) if region is not None else set[str]()
            self._known_reads[tensor] = frozenset(read.union(self._changed(tensor)))
        return self._known_reads[tensor]
