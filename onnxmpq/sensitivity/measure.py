"""Measures one-at-a-time effects, in graph order, a group of neighbouring tensors at a time.

A group ends at a checkpoint: a place in the node order. For each target a small session runs the nodes between it and
the checkpoint; one large session, shared by the group, runs the rest from the tensors that are live there, as far as
the group reaches it. All of a group is run on one batch before the next one, so that what is held of the fp32 model
does not grow with the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
GROUP_BYTES = 512 * 2**20  # of weights in the group's small sessions, about twice
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
        self.model, self.tries, self.frame, self.tick = model, tries, frame, tick
        self.settings, self.cutter = SessionSettings(threads=threads), Cutter(model.proto)
        self.targets = self._targets()
        batch = batch or self._batch(feeds.batch([0]))
        self.batches = list(feeds.batches(batch))
        step = batch if feeds.batchable else 1
        self.rows = [slice(start, min(start + step, len(feeds))) for start in range(0, len(feeds), step)]

    def run(self, keep: Keep) -> Effects:
        effects, prefix, groups = self._none(), Prefix(self.cutter, self.batches, self.settings), self._groups()
        for number, group in enumerate(groups):
            part = self._none()
            for trial in self._group(group, [t for g in groups[number + 1 :] for t in g], prefix):
                trial.add_to(part)
                trial.add_to(effects)
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

    def _batch(self, one: dict[str, Array]) -> int:
        """How many samples to run together."""
        inner = [t for t in self.targets if t not in one]
        values = run(open_session(with_outputs(self.model.proto, inner), self.settings), one, inner) if inner else []
        largest = max((v.nbytes for v in (*values, *one.values())), default=1)
        return int(min(max(RUN_BYTES // largest, 1), MOST_AT_A_TIME))

    def _groups(self) -> list[list[str]]:
        """Neighbouring targets, at most GROUP, and fewer where the weights between them are large."""
        place, weights = self.cutter.position, np.cumsum([0, *self.cutter.weight_bytes()])
        groups: list[list[str]] = [[]]
        for tensor in sorted(self.targets, key=place):
            between = weights[place(tensor) + 1] - weights[place(groups[-1][0]) + 1] if groups[-1] else 0
            if len(groups[-1]) == GROUP or len(groups[-1]) * between > GROUP_BYTES:
                groups.append([])
            groups[-1].append(tensor)
        return [g for g in groups if g]

    def _group(self, group: Sequence[str], rest: Sequence[str], prefix: Prefix) -> list[Trial]:
        """All samples through a group's targets. rest: the targets after them."""
        checkpoint = max(self.cutter.position(t) for t in group) + 1
        suffix = OpenPart(self.cutter.behind(group, checkpoint), self.settings)
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
        for rows, given in zip(self.rows, prefix.walk(checkpoint, needed, later), strict=True):
            for trial in trials:
                trial.run(rows, given)
            before, done = done, tries * rows.stop // self.rows[-1].stop
            self.tick(done - before)
        return trials

    def _reads(self, tensor: str) -> set[str]:
        """What must be known to perturb a target."""
        region = self.targets[tensor]
        return {tensor} | (self.cutter.reads(region) if region is not None else set())
