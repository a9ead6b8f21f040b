"""Effects of everything on a menu, on as many samples as time allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxmpq.context import Context
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.menu import Menu, activation_tensors, activation_type, narrow_inputs
from onnxmpq.model import Model, multiply_accumulates, work_in_bodies
from onnxmpq.progress import SENSITIVITY
from onnxmpq.ranges import Observation, params_key, range_candidates
from onnxmpq.schemes import DTYPES
from onnxmpq.sensitivity.effect_samples import effect_samples, evenly_spread
from onnxmpq.sensitivity.effects import Effects, Perturbations
from onnxmpq.sensitivity.float16 import half_effects, half_perturbations
from onnxmpq.sensitivity.method import AUTO, FEWEST_EFFECT_SAMPLES, extent
from onnxmpq.sensitivity.output_kinds import OutputKind
from onnxmpq.sensitivity.reuse import reused_effects, reused_effects_by_blocks
from onnxmpq.workbench import Workbench

REFERENCE_THREADS = 2
MAC_S, ELEMENT_S, NODE_S = 7.4e-12, 1.05e-10, 2.8e-7
"""Seconds per multiply-accumulate, per element read or written, and per node, on one thread of the reference machine.

Fitted by `benchmarks/forward_cost.py` to the zoo's six models and the two samples, within 12 % of each (AMD EPYC with
AVX-512, onnxruntime 1.32.0, CPU time, 2026-11-25). They only divide a budget: on another machine effects take longer
or shorter, on the same samples.
"""
CACHED_BYTES = 64e6
WEIGHT_BYTE_S = 6e-11
"""Seconds per byte of weights beyond those that a processor's cache holds: cores share the memory, so threads do not
divide them.

A decoder of 0.43 GB took 3.1e-11 for one token, and for 12 tokens, its products apart, 4.9e-11; 4.2e-11 and 9.1e-11
where weights stay in their files (AMD EPYC with AVX512-VNNI, onnxruntime 1.32.0, CPU time, 2026-11-26).
"""


def effects_of_menu(
    model: Model,
    menu: Menu,
    bench: Workbench,
    observation: Observation,
    feeds: Feeds,
    kinds: Mapping[str, OutputKind] | None,
    context: Context,
    method: str = AUTO,
) -> Effects:
    """One-at-a-time effects of everything still on the menu, on as many samples as time allows. method: `CHOICES`."""
    kind = activation_type(menu)
    activations = {t: range_candidates(observation, t, kind) for t in activation_tensors(model, menu)}
    inputs = {key: bench.activations[params_key(t, key[1])] for key, t in narrow_inputs(model, menu).items()}
    layers = {r.name: r.params.weights for r in model.layers}
    kernels = {
        (r.name, s.name): bench.dialect.spelled(
            r, s, [bench.weights[w.key, s.weight.name] for w in r.params.weights]
        ).kept_by(model.store.kept)
        for r in model.layers
        for s in menu[r.name]
        if s.rounds_inside and s.weight is not None and not r.operator.looks_up
    }
    alone = {
        (r.name, s.weight.name)
        for r in model.layers
        for s in menu[r.name]
        if s.weight is not None and (r.name, s.name) not in kernels
    }
    weights = {
        key: tuple(bench.weights[place.key, key[1]] for place in layers[key[0]])
        for key in bench.weights
        if key in alone  # not those of a layer's further weights, which change with the first
    }
    tries = Perturbations(weights, activations, inputs, kernels)
    halves = {half: tried for half in DTYPES if (tried := half_perturbations(model, menu, half)).count}
    run = extent(model, method, forward_seconds(model, float_shapes(model, feeds)), tries.count, len(feeds))
    measured, count = reused_effects_by_blocks if run.by_blocks else reused_effects, run.samples
    numbers, share = effect_samples(model, feeds, count, kinds or {}, threads=context.threads)
    chosen = feeds.take(numbers)
    few = chosen.take(evenly_spread(count, min(FEWEST_EFFECT_SAMPLES, count)))
    total = tries.count + sum(t.count for t in halves.values())
    way = ", block by block" if run.by_blocks else ""
    context.progress.detail(f"sensitivity is measured on {count} of {len(feeds)} samples{way}")
    with context.progress.stage(SENSITIVITY, total) as tick:
        effects = _shared(measured(context, model, chosen, tries, kinds or {}, tick), share)
        found = {
            half: _shared(measured(context, model, few, tried, kinds or {}, tick, f"{half} effects"), share)
            for half, tried in halves.items()
        }
    return replace(effects, halves=half_effects(model, menu, found))


def _shared(effects: Effects, share: float) -> Effects:
    return replace(effects, divergence=replace(effects.divergence, scale=share))


def forward_seconds(model: Model, shapes: Mapping[str, Sequence[int]]) -> float:
    """Estimated seconds for one run of the fp32 model on the reference machine, where several run side by side.

    shapes: of all float tensors between regions. An estimate rather than a measurement, so that the samples, and with
    them every decision, do not depend on how busy the machine is.
    """
    macs = sum(multiply_accumulates(region, shapes.__getitem__) for region in model.regions)
    moved = sum(math.prod(shapes[t]) for region in model.regions for t in (*region.inputs, *region.outputs))
    inside_macs, inside_nodes = work_in_bodies(model, shapes)
    macs, nodes = macs + inside_macs, max(len(model.structure.graph.node) + inside_nodes, 1)
    read = 4 * sum(place.parameters for region, place in model.weights.values() if not region.operator.looks_up)
    from_memory_s = WEIGHT_BYTE_S * max(read - CACHED_BYTES, 0.0)
    return (MAC_S * macs + ELEMENT_S * moved + NODE_S * nodes) / REFERENCE_THREADS + from_memory_s
