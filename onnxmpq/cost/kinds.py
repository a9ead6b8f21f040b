"""Layers of one operator and shape, told apart by the wall clock where the profiler cannot.

onnxruntime's profiler counts whole microseconds, rounded down. A product of one token with a small matrix takes less
than one, so kernels of different speed read the same, and a plan of one kind of layer alone, timed by its wall clock,
says what the profile does not.
Source: `TimeDiffMicroSeconds` of onnxruntime/core/common/profiler.cc
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmpq.cost.measure import Profile
from onnxmpq.cost.table import CostTable
from onnxmpq.model import Model, Region
from onnxmpq.schemes import FP32, Scheme

RESOLUTION_S = 0.7e-6  # by which a kernel's profiled time may be off: a microsecond rounded down, and some in between
NOISE_S, NOISE = 0.3e-6, 0.01  # of a plan's wall clock beside fp32's, and the same as a share of it
VISIBLE = 0.05  # of fp32's wall clock, in all layers together, from which on they are told apart
MOST_KINDS = 12

Kind = tuple[str, tuple[int, ...]]


def plans_by_kind(model: Model, profiles: Sequence[Profile], reference_s: float) -> list[dict[str, Scheme]]:
    """For each kind the fastest of the plans that store weights in fewer bits and compute in float, on this kind alone.

    profiles: of plans that quantize all layers alike. reference_s: wall clock of fp32. Empty where no such plan is
    faster than that, where all layers are of one kind, and where a microsecond for each layer is nothing beside it.
    """
    found = [p for p in profiles if p.assignment and _weights_alone(p) and p.wall_s < reference_s]
    best: Mapping[str, Scheme] = min(found, key=lambda p: p.wall_s).assignment if found else {}
    if RESOLUTION_S * len(best) < VISIBLE * reference_s:
        return []
    kinds: dict[Kind, dict[str, Scheme]] = defaultdict(dict)
    for region in model.layers:
        if region.name in best:
            kinds[_kind(region)][region.name] = best[region.name]
    return list(kinds.values())[:MOST_KINDS] if len(kinds) > 1 else []


def by_wall_clock(model: Model, table: CostTable, profiles: Sequence[Profile]) -> CostTable:
    """The table with float32's times of each kind such that plans of weights alone differ as their wall clocks do.

    Ridge regression: each kind's time may be off by `RESOLUTION_S`, each wall clock by its noise. So nothing changes
    where kernels take much longer than a microsecond.
    """
    plain = next((p for p in profiles if not p.assignment), None)
    alone = [p for p in profiles if p.assignment and _weights_alone(p)]
    if plain is None or len(alone) < 2:
        return table
    kind = {r.name: _kind(r) for r in model.layers}
    kinds = list(dict.fromkeys(kind[r] for p in alone for r in p.assignment if r in kind))
    place = {k: i for i, k in enumerate(kinds)}
    counts, saved = np.zeros((len(alone), len(kinds))), np.zeros(len(alone))
    for row, profile in enumerate(alone):
        for region in profile.assignment:
            if region in kind:
                counts[row, place[kind[region]]] += 1
        predicted = table.predict_s(model, {}) - table.predict_s(model, profile.assignment)
        saved[row] = (plain.wall_s - profile.wall_s) - predicted
    noise = max(NOISE_S, NOISE * plain.wall_s)
    left = np.vstack([counts / noise, np.eye(len(kinds)) / RESOLUTION_S])
    right = np.concatenate([saved / noise, np.zeros(len(kinds))])
    off = np.linalg.lstsq(left, right, rcond=None)[0]
    node_s = dict(table.node_s)
    for name, of in kind.items():
        if of in place and FP32 in node_s.get(name, {}):
            node_s[name] = node_s[name] | {FP32: max(node_s[name][FP32] + float(off[place[of]]), 0.0)}
    shift = sum(node_s[n][FP32] - table.node_s[n][FP32] for n in kind if FP32 in node_s.get(n, {}))
    return replace(table, node_s=node_s, base_s=table.base_s - shift)


def _weights_alone(profile: Profile) -> bool:
    """No tensor changes its format, and no kernel reads a quantized one."""
    moved = any(profile.times.tensor_kernels.values())
    return not moved and not any(s.reads.quantized for s in profile.assignment.values())


def _kind(region: Region) -> Kind:
    return region.op_type, tuple(region.params.weight_shape)
