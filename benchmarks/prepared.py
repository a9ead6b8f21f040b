"""A zoo model up to the allocation problem, without any timing: menu, ranges, rounded weights and effects."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from benchmarks.zoo import arrays, zoo
from onnxmpq.allocate import Problem, at_unseen_level, pose
from onnxmpq.context import Context
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import candidates, observed_tensors, weight_formats
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import observe_ranges
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, run
from onnxmpq.samples import Samples
from onnxmpq.schemes import FP32
from onnxmpq.sensitivity import Effects, Evaluator, effects_of_menu
from onnxmpq.sensitivity.divergence import Code
from onnxmpq.sensitivity.effect_samples import effect_samples
from onnxmpq.sensitivity.method import FULL
from onnxmpq.target.load import load_target
from onnxmpq.threads import workers
from onnxmpq.weights import round_for_inputs, without
from onnxmpq.workbench import Workbench, prepare_bench


@dataclass(frozen=True)
class Prepared:
    """effects: on `samples`, calibration samples that weights were rounded for; `spared`: the others of them.
    unseen: test samples; `alike`: further ones of the calibration split, which took no part either. again: as this is,
    with
    effects by another method on other samples."""

    entry: Any
    model: Model
    bench: Workbench
    effects: Effects
    problem: Problem
    samples: Feeds
    spared: Feeds
    unseen: Feeds
    alike: Feeds
    again: Callable[[str, Feeds], Prepared]

    def codes(self, proto: onnx.ModelProto, feeds: Feeds) -> Code:
        """Codes of a model's outputs, float32 [samples, width]."""
        session = open_session(proto, SessionSettings(threads=workers()))
        encode = self.effects.divergence.encode
        return np.concatenate([encode(run(session, inputs), 1) for inputs in feeds.batches(1)])

    @cached_property
    def plain(self) -> Problem:
        """The problem whose effects are mean divergences alone, with no share of the pooled curvature."""
        effects = replace(self.effects, pooling=False)
        options = {
            region: tuple(replace(o, effect=effects.of_scheme(region, o.scheme)) for o in row)
            for region, row in self.problem.options.items()
        }
        return replace(
            self.problem, options=options, activations={t: effects.of_activation(t) for t in effects.activations}
        )

    def evaluator(self, feeds: Feeds) -> Evaluator:
        """True divergence of whole models on samples."""
        return Evaluator.of(self.model, self.effects.divergence, feeds, SessionSettings(threads=workers()))


def prepare_entry(
    name: str, samples: int, test: int, *, layers_only: bool = False, schemes: Container[str] | None = None
) -> Prepared:
    """layers_only: no int8 for regions without weights (as in most plans, where little of it pays). schemes: those that
    are tried; None for all."""
    entry = zoo().load(name)
    model = prepare(entry.model)
    specs = input_specs(open_session(model.proto))
    known, unseen = (
        load_feeds(arrays(entry, split, count), specs, limit=count)
        for split, count in (("calib", samples + test), ("test", test))
    )
    samples = min(samples, len(known))
    feeds, alike = known.take(range(samples)), known.take(range(samples, len(known)))
    dialect, context = DIALECTS["onnxruntime"], Context()
    menu = candidates(model, load_target("cpu"), dialect)
    if layers_only:
        weighted = {r.name for r in model.layers}
        menu = menu.where(lambda name, s: name in weighted or s.is_fp32)
    if schemes is not None:
        menu = menu.where(lambda name, s: s.is_fp32 or s.name in schemes)
    observation = observe_ranges(model, observed_tensors(model, menu), feeds, context)
    bench = prepare_bench(model, menu, observation, dialect, context)
    data = Samples(feeds, unseen, True)
    formats = weight_formats(model, menu)
    bench = bench.with_weights(round_for_inputs(model, formats, data.rounding, without([]), context))
    free = CostTable({r.name: {FP32: 0.0, **{s.kernel: 0.0 for s in menu[r.name]}} for r in model.regions})

    def by(method: str, given: Feeds) -> Prepared:
        effects = effects_of_menu(model, menu, bench, observation, given, None, context, method)
        chosen, _ = effect_samples(model, given, len(effects.reference), {}, threads=context.threads)
        ready = replace(bench, activations={**bench.activations, **effects.params})
        seen = pose(model, menu, free, effects, ready.weights)
        effects = at_unseen_level(seen, effects, ready, data, context)
        problem = pose(model, menu, free, effects, ready.weights)
        return Prepared(entry, model, ready, effects, problem, given.take(chosen), data.deciding, unseen, alike, by)

    return by(FULL, data.effects)
