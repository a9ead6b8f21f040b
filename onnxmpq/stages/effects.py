"""Sensitivity, and the allocation problem that it completes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from onnxmpq.allocate import Option, Problem
from onnxmpq.cache import NO_CACHE, Cache
from onnxmpq.closed_loop import Workbench
from onnxmpq.cost.size import base_bytes, region_bytes
from onnxmpq.cost.table import CostTable
from onnxmpq.feeds.types import Feeds
from onnxmpq.halves import DTYPES
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.progress import Progress
from onnxmpq.ranges import Observation, params_key
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.runtime import open_session, run
from onnxmpq.sensitivity import Effects, OutputKind, Perturbations
from onnxmpq.stages import reuse
from onnxmpq.stages.effect_samples import effect_samples, evenly_spread
from onnxmpq.stages.halves import half_effects, half_perturbations
from onnxmpq.stages.ranges import activation_tensors, activation_type, narrow_inputs, range_candidates
from onnxmpq.stages.threads import workers

EFFECT_SECONDS = 40.0  # what one-at-a-time effects may take, before samples are saved
FEWEST_EFFECT_SAMPLES = 8
RoundedWeights = Mapping[tuple[str, str], QuantizedWeight]


def sensitivity(
    model: Model,
    menu: Menu,
    bench: Workbench,
    observation: Observation,
    feeds: Feeds,
    kinds: Mapping[str, OutputKind] | None,
    progress: Progress,
    cache: Cache = NO_CACHE,
) -> Effects:
    """One-at-a-time effects of everything still on the menu, on as many samples as the time allows."""
    formats = {(r.name, s.weight.name) for r in model.layers for s in menu[r.name] if s.weight is not None}
    kind = activation_type(menu)
    activations = {t: range_candidates(observation, t, kind) for t in activation_tensors(model, menu)}
    inputs = {key: bench.activations[params_key(t, key[1])] for key, t in narrow_inputs(model, menu).items()}
    tries = Perturbations({k: bench.weights[k] for k in bench.weights if k in formats}, activations, inputs)
    halves = {half: tried for half in DTYPES if (tried := half_perturbations(model, menu, half)).count}
    count = reuse.sample_count(cache, model, feeds, tries, partial(affordable, model, feeds, tries.count))
    numbers, share = effect_samples(model, feeds, count, kinds or {})
    chosen = feeds.take(numbers)
    few = chosen.take(evenly_spread(count, min(FEWEST_EFFECT_SAMPLES, count)))
    with progress.stage(f"sensitivity on {count} samples", tries.count + sum(t.count for t in halves.values())) as tick:
        effects = _shared(reuse.effects(cache, model, chosen, tries, kinds or {}, tick), share)
        found = {
            half: _shared(reuse.effects(cache, model, few, tried, kinds or {}, tick, f"{half} effects"), share)
            for half, tried in halves.items()
        }
    return replace(effects, halves=half_effects(model, menu, found))


def _shared(effects: Effects, share: float) -> Effects:
    return replace(effects, divergence=replace(effects.divergence, scale=share))


def affordable(model: Model, feeds: Feeds, tries: int) -> int:
    """Samples on which so many perturbations take no longer than `EFFECT_SECONDS`; 8, 12, 16, 24, ... or all."""
    most = int(EFFECT_SECONDS / max(0.6 * forward_seconds(model, feeds) * tries, 1e-9))
    if most >= len(feeds):
        return len(feeds)
    step = max(most // FEWEST_EFFECT_SAMPLES, 1).bit_length() - 1
    steps = (FEWEST_EFFECT_SAMPLES << step, FEWEST_EFFECT_SAMPLES * 3 // 2 << step)
    return min(max(s for s in steps if s <= max(most, FEWEST_EFFECT_SAMPLES)), len(feeds))


def forward_seconds(model: Model, feeds: Feeds) -> float:
    """One run of the fp32 model in seconds, where several run side by side as in sensitivity: CPU time, in which other
    work on the machine does not count."""
    session, inputs = open_session(model.proto), feeds.batch([0])
    spent_s: list[float] = []
    while len(spent_s) < 3 or sum(spent_s) < 0.2:
        start = time.process_time()
        run(session, inputs)
        spent_s.append(time.process_time() - start)
    return min(spent_s) / workers()


def pose(model: Model, menu: Menu, table: CostTable, effects: Effects | None, weights: RoundedWeights) -> Problem:
    """The allocation problem from menu, costs and effects (all zero where they are not known yet)."""
    options: dict[str, tuple[Option, ...]] = {}
    for region in model.regions:
        rows = []
        for scheme in menu[region.name]:
            if not scheme.is_float and not table.offers(region.name, scheme):
                continue
            size = region_bytes(region, scheme, weights)
            cost = table.scheme_s(region.name, scheme), table.scheme_j(region.name, scheme)
            effect = effects.of_scheme(region.name, scheme) if effects else 0.0
            rows.append(Option(scheme, cost[0], size, effect, cost[1]))
        options[region.name] = tuple(rows)
    activations = {t: effects.of_activation(t) for t in effects.activations} if effects else {}
    return Problem(model, options, activations, table, base_bytes(model))
