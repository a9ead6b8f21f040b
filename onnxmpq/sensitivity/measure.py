"""Measures one-at-a-time effects, in graph order, a group of neighbouring tensors at a time.

A group ends at a checkpoint: a place in the node order. For each target a small session runs the nodes between it and
the checkpoint; one large session, shared by the group, runs the rest from the tensors that are live there, as far as
the group reaches it. All of a group is run on one batch before the next one, so that what is held of the fp32 model
does not grow with the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from onnxmpq.feeds.types import Array, Feeds
from onnxmpq.model import Model, Region
from onnxmpq.ranges import with_outputs
from onnxmpq.runtime import SessionSettings, open_session, run
from onnxmpq.sensitivity.divergence import OutputKind
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, fit_frame
from onnxmpq.sensitivity.prefix import Prefix
from onnxmpq.sensitivity.suffix import Cutter, OpenPart
from onnxmpq.sensitivity.trial import Trial

GROUP = 16  # targets that share one session for the rest of the graph
WEIGHT_BYTES = 512 * 2**20  # in the small sessions of a group, about twice
VALUE_BYTES = 32 * 2**20  # of a group's targets in the batches that run side by side; sessions hold several times that
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
    tick: Tick = lambda _: None,
    keep: Keep = lambda _: None,
) -> Effects:
    """Effects of all perturbations on these samples; `tick` counts perturbations done.

    threads: batches that run side by side, each on one thread: the operators of small models share threads badly.
    batch: samples in one run; None for as many as the model's activations suggest. frame: fitted on the same samples
    before, for effects that are to be added to others'. keep: gets the effects in parts, as soon as each is complete.
    """
    frame = frame or fit_frame(model, feeds, tries.count, threads=threads, kinds=kinds or {})
    return _Worker(model, feeds, tries, frame, threads, batch, tick).run(keep)


class _Worker:
    def __init__(
        self,
        model: Model,
        feeds: Feeds,
        tries: Perturbations,
        frame: Frame,
        threads: int,
        batch: int | None,
        tick: Tick,
    ) -> None:
        self.model, self.feeds, self.tries, self.frame, self.tick = model, feeds, tries, frame, tick
        self.threads, self.settings, self.cutter = threads, SessionSettings(lean=True), Cutter(model.proto)
        self.targets = self._targets()
        self.bytes = self._bytes(feeds.batch([0]))
        batch = batch or min(max(RUN_BYTES // max(self.bytes.values(), default=1), 1), MOST_AT_A_TIME)
        step = batch if feeds.batchable else 1
        self.rows = [slice(start, min(start + step, len(feeds))) for start in range(0, len(feeds), step)]

    def run(self, keep: Keep) -> Effects:
        effects, groups = self._none(), self._groups()
        prefix = Prefix(self.cutter, self.feeds, self.rows, self.settings)
        for number, group in enumerate(groups):
            part = self._group(group, [t for g in groups[number + 1 :] for t in g], prefix)
            effects.update(part)
            keep(part)
        return effects

    def _none(self) -> Effects:
        return Effects(self.frame.divergence, self.frame.reference, {}, {}, {})

    def _targets(self) -> dict[str, Region | None]:
        """Tensors to perturb in graph order, each with the layer whose weights and inputs show up there."""
        found: dict[str, Region | None] = {}
        for tensor in (i.name for i in self.model.proto.graph.input):
            if tensor in self.tries.activations:
                found[tensor] = None
        tried = {name for name, _ in (*self.tries.weights, *self.tries.inputs)}
        for region in self.model.regions:
            for tensor in region.outputs:
                own = region.name in tried and tensor == region.outputs[0]
                if own or tensor in self.tries.activations:
                    found[tensor] = region if own else None
        return found

    def _bytes(self, one: Mapping[str, Array]) -> dict[str, int]:
        """Bytes of each target in a run of one sample."""
        inner = [t for t in self.targets if t not in one]
        values = run(open_session(with_outputs(self.model.proto, inner)), dict(one), inner) if inner else []
        return {t: v.nbytes for t, v in (*one.items(), *zip(inner, values, strict=True)) if t in self.targets}

    def _groups(self) -> list[list[str]]:
        """Neighbouring targets, at most GROUP, and fewer where they or the weights between them are large."""
        place, weights = self.cutter.position, np.cumsum([0, *self.cutter.weight_bytes()])
        at_once = self.threads * max(r.stop - r.start for r in self.rows)
        groups: list[list[str]] = [[]]
        for tensor in sorted(self.targets, key=place):
            group = groups[-1]
            between = weights[place(tensor) + 1] - weights[place(group[0]) + 1] if group else 0
            values = at_once * sum(self.bytes[t] for t in (*group, tensor))
            if group and (len(group) == GROUP or len(group) * between > WEIGHT_BYTES or values > VALUE_BYTES):
                groups.append([])
            groups[-1].append(tensor)
        return [g for g in groups if g]

    def _group(self, group: Sequence[str], rest: Sequence[str], prefix: Prefix) -> Effects:
        """All samples through a group's targets, whose sessions end here. rest: the targets after them."""
        checkpoint = max(self.cutter.position(t) for t in group) + 1
        suffix = OpenPart(self.cutter.behind(group, checkpoint), SessionSettings())  # one, and run most
        trials = []
        for tensor in group:
            middle = OpenPart(self.cutter.between(tensor, checkpoint, suffix.inputs), self.settings)
            region = self.targets[tensor]
            trials.append(Trial(tensor, region, self.tries, (middle, suffix), self.frame, self.cutter, self.settings))
        needed = sorted(set().union(*(t.needed for t in trials)))
        # a later layer may have begun before the checkpoint
        begun = {t for target in rest for t in self._reads(target) if self.cutter.position(t) < checkpoint}
        later = [*self.cutter.live(checkpoint), *sorted(begun)]
        tries, done = sum(t.count for t in trials), 0
        batches = zip(self.rows, prefix.walk(checkpoint, needed, later), strict=True)
        with ThreadPoolExecutor(self.threads) as pool:
            while some := list(islice(batches, self.threads)):
                for running in [pool.submit(_run, trials, *batch) for batch in some]:
                    running.result()
                seen = some[-1][0].stop
                for trial in trials:
                    trial.look(seen)
                before, done = done, tries * seen // self.rows[-1].stop
                self.tick(done - before)
        part = self._none()
        for trial in trials:
            trial.add_to(part)
        return part

    def _reads(self, tensor: str) -> set[str]:
        """What must be known to perturb a target."""
        region = self.targets[tensor]
        return {tensor} | (self.cutter.reads(region) if region is not None else set())


def _run(trials: Sequence[Trial], rows: slice, given: Mapping[str, Array]) -> None:
    for trial in trials:
        trial.run(rows, given)
