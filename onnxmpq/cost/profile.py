"""Profile a model: choose plans, measure them, fit the table. Cost grows with latency x plans, not with layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx

from onnxmpq.cost.chains import Menu
from onnxmpq.cost.fit import fit
from onnxmpq.cost.kinds import by_wall_clock
from onnxmpq.cost.measure import Profile
from onnxmpq.cost.plan_costs import PlanProfiler
from onnxmpq.cost.sampler import mixed_plans, uniform_plans
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import CrashError, ModelError
from onnxmpq.model import Model
from onnxmpq.runtimes import Rules
from onnxmpq.schemes import Scheme
from onnxmpq.trials import culprit

MIXED_PLANS = 12
UNIFORM_WEIGHT = 5.0
LOOP_WEIGHT = 10.0
Build = Callable[[Mapping[str, Scheme]], onnx.ModelProto]
Measure = Callable[[Mapping[str, Scheme]], Profile]
Tick = Callable[[int], None]
Warn = Callable[[str], None]
Crashing = dict[str, set[str]]
"""Region -> kernels that end the runtime there."""
MOST_CULPRITS = 4  # each is searched for by crashing the runtime about ten times


def plans_to_profile(model: Model, menu: Menu, rules: Rules, seed: int) -> list[dict[str, Scheme]]:
    """Uniform plans, and mixed ones where there is a choice of activation format."""
    plans = list(uniform_plans(model, menu, rules))
    if any(s.reads.quantized for schemes in menu.values() for s in schemes):
        plans += mixed_plans(model, menu, rules, MIXED_PLANS, seed)
    return plans


def profile_plans(
    profiler: PlanProfiler,
    plans: Sequence[Mapping[str, Scheme]],
    build: Build,
    tick: Tick = lambda _: None,
    warn: Warn = lambda _: None,
    crashing: Crashing | None = None,
    measure: Measure | None = None,
) -> list[Profile]:
    """Measure every plan. What the provider cannot run is left out with a warning; the rest is worth having.

    crashing: regions and kernels that end the runtime; those that are found join it. Plans are measured without them.
    measure: profiles a plan, where that needs no build for all of them.
    """
    profiles, crashing = [], {} if crashing is None else crashing
    measured = measure or (lambda plan: profiler.profile(plan, build(plan)))
    for number, given in enumerate(plans):
        plan = without_crashing(given, crashing)
        while True:
            try:
                profiles.append(measured(plan))
                break
            except ModelError as error:
                found = _culprit(profiler, plan, build, error) if len(crashing) < MOST_CULPRITS else None
                what = f"plan {number + 1} of {len(plans)} cannot be measured on {profiler.settings.provider}: {error}"
                if found is None:
                    warn(what)
                    break
                kernel = plan[found].kernel
                warn(f"{what}; {kernel} at {found} is the cause and is left out of all plans")
                crashing.setdefault(found, set()).add(kernel)
                plan = without_crashing(plan, crashing)
        tick(1)
    return profiles


def without_crashing(plan: Mapping[str, Scheme], crashing: Crashing) -> dict[str, Scheme]:
    """The plan with float32 where a region's kernel is among those that crash."""
    return {name: scheme for name, scheme in plan.items() if scheme.kernel not in crashing.get(name, ())}


def _culprit(profiler: PlanProfiler, plan: Mapping[str, Scheme], build: Build, error: ModelError) -> str | None:
    """The region that makes a plan crash, where it is a crash and can be found."""
    if not isinstance(error, CrashError) or not error.searchable:
        return None
    regions = changed_regions(profiler.model, plan)
    return culprit(regions, lambda some: build({r: plan[r] for r in some}), profiler.try_out)


def changed_regions(model: Model, plan: Mapping[str, Scheme]) -> list[str]:
    """Regions that a plan does not leave in float32, in graph order."""
    return [r.name for r in model.regions if r.name in plan and not plan[r.name].is_fp32]


def fit_table(
    model: Model,
    profiles: Sequence[Profile],
    uniform: int,
    meta: dict[str, str],
    rules: Rules,
    mixed: int = MIXED_PLANS,
) -> CostTable:
    """The table. The first `uniform` profiles and above all those of the closed loop (behind `mixed` others) count
    more: plans near the optimum look like them."""
    measured = len(profiles)
    mixed_end = uniform + mixed
    weights = [UNIFORM_WEIGHT if i < uniform else 1.0 if i < mixed_end else LOOP_WEIGHT for i in range(measured)]
    return by_wall_clock(model, fit(model, profiles, meta, weights, rules), profiles)
