"""Profile a model: choose plans, measure them, fit the table. Cost grows with latency x plans, not with layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx

from onnxmpq.cost.chains import Menu
from onnxmpq.cost.fit import fit
from onnxmpq.cost.judge import PlanProfiler
from onnxmpq.cost.layout import Roles
from onnxmpq.cost.measure import Profile
from onnxmpq.cost.sampler import mixed_plans, uniform_plans
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import ModelError
from onnxmpq.model import Model
from onnxmpq.schemes import Format, Scheme

MIXED_PLANS = 12
UNIFORM_WEIGHT = 5.0
LOOP_WEIGHT = 10.0
Build = Callable[[Mapping[str, Scheme]], onnx.ModelProto]
Tick = Callable[[int], None]
Warn = Callable[[str], None]


def plans_to_profile(model: Model, menu: Menu, layout: Roles, seed: int) -> list[dict[str, Scheme]]:
    """Uniform plans, and mixed ones where there is an int8 choice to make."""
    plans = list(uniform_plans(model, menu, layout))
    if any(s.reads is Format.INT8 for schemes in menu.values() for s in schemes):
        plans += mixed_plans(model, menu, layout, MIXED_PLANS, seed)
    return plans


def profile_plans(
    profiler: PlanProfiler,
    plans: Sequence[Mapping[str, Scheme]],
    build: Build,
    tick: Tick = lambda _: None,
    warn: Warn = lambda _: None,
) -> list[Profile]:
    """Measure every plan. What the provider cannot run is left out with a warning; the rest is worth having."""
    profiles = []
    for number, plan in enumerate(plans):
        try:
            profiles.append(profiler.profile(plan, build(plan)))
        except ModelError as error:
            warn(f"plan {number + 1} of {len(plans)} cannot be measured on {profiler.settings.provider}: {error}")
        tick(1)
    return profiles


def fit_table(
    model: Model,
    profiles: Sequence[Profile],
    uniform: int,
    meta: dict[str, str],
    layout: Roles,
    mixed: int = MIXED_PLANS,
) -> CostTable:
    """The table. The first `uniform` profiles and above all those of the closed loop (behind `mixed` others) count
    more: plans near the optimum look like them."""
    measured = len(profiles)
    mixed_end = uniform + mixed
    weights = [UNIFORM_WEIGHT if i < uniform else 1.0 if i < mixed_end else LOOP_WEIGHT for i in range(measured)]
    return fit(model, profiles, meta, weights, layout)
