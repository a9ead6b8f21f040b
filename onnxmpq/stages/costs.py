"""Costs: measured here, read from a table, or modelled."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from onnxmpq.closed_loop import Workbench
from onnxmpq.cost.exchange import describe, read_table
from onnxmpq.cost.judge import Judge, MeasuringJudge, TableJudge
from onnxmpq.cost.layout import Roles
from onnxmpq.cost.measure import Effort, Profile, Profiler
from onnxmpq.cost.profile import Crashing, fit_table, plans_to_profile, profile_plans
from onnxmpq.cost.sampler import uniform_plans
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import TargetError
from onnxmpq.feeds.types import Feeds
from onnxmpq.isolation.trial import single
from onnxmpq.menu import Menu, Reasons, proven
from onnxmpq.model import Model
from onnxmpq.progress import Progress
from onnxmpq.ranges import tensor_shapes
from onnxmpq.runtime import SessionSettings
from onnxmpq.target.lookup import lookup_table
from onnxmpq.target.roofline import roofline_table
from onnxmpq.target.types import Target

OTHERS = 2  # samples beside the first that each plan runs on before it is timed


def judge_costs(
    model: Model,
    device: Target,
    menu: Menu,
    layout: Roles,
    bench: Workbench,
    feeds: Feeds,
    settings: SessionSettings,
    effort: Effort,
    table_file: Path | None,
    seed: int,
    progress: Progress,
) -> tuple[Judge, Menu, Reasons]:
    """Costs from this machine, from a table measured elsewhere, or from the target's model; and what they offer."""
    meta = describe(model, device.name, settings.provider, settings.threads)
    if table_file is not None:
        table = read_table(table_file, meta)
        progress.say(
            f"costs measured on {table.meta.get('cpu', 'an unknown CPU')}, {table.meta.get('date', 'undated')}"
        )
        offered = {n: tuple(s for s in row if s.is_float or table.offers(n, s)) for n, row in menu.items()}
        return TableJudge(model, table), offered, {}
    if device.cost != "measured":
        return TableJudge(model, modelled_table(model, device, feeds, menu)), menu, {}
    crashing: Crashing = {}
    profiler = Profiler(model, feeds.batch([0]), settings, effort, single(feeds.take(range(1, len(feeds))[:OTHERS])))
    profiles, uniform = profile(profiler, menu, layout, bench, seed, progress, crashing)
    menu = {n: tuple(s for s in row if s.is_float or s.kernel not in crashing.get(n, ())) for n, row in menu.items()}
    menu, unfused = proven(model, menu, profiles)
    unfused |= {name: f"onnxruntime crashes with {', '.join(sorted(k))} here" for name, k in crashing.items()}
    mixed = len(profiles) - uniform
    refit = partial(fit_table, model, uniform=uniform, meta=meta, layout=layout, mixed=mixed)
    return MeasuringJudge(profiler, profiles, refit), menu, unfused


def modelled_table(model: Model, device: Target, feeds: Feeds, menu: Menu) -> CostTable:
    """Roofline or published costs for the shapes of one sample."""
    if device.cost == "lookup":
        return lookup_table(model, device, menu)
    return roofline_table(model, device, float_shapes(model, feeds), menu)


def float_shapes(model: Model, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Shapes of all float tensors between regions, in a run of one sample."""
    return tensor_shapes(model, feeds, list(dict.fromkeys(t for r in model.regions for t in (*r.inputs, *r.outputs))))


def profile(
    profiler: Profiler,
    menu: Menu,
    layout: Roles,
    bench: Workbench,
    seed: int,
    progress: Progress,
    crashing: Crashing | None = None,
) -> tuple[list[Profile], int]:
    """Profiles of uniform and mixed plans, and how many of them are uniform. Raises TargetError where none runs.

    crashing: gets the kernels that end the runtime, by region.
    """
    plans = plans_to_profile(bench.model, menu, layout, seed)
    uniform = len(list(uniform_plans(bench.model, menu, layout)))
    found: list[list[Profile]] = []
    crashing = {} if crashing is None else crashing
    start = time.perf_counter()
    with progress.stage("measuring kernels and transitions", len(plans)) as tick:
        for part in (plans[:uniform], plans[uniform:]):
            found.append(profile_plans(profiler, part, bench.build, tick, progress.warn, crashing))
    profiles = profiler.settled(found[0] + found[1])
    if not profiles:
        raise TargetError(f"{profiler.settings.provider} runs none of the {len(plans)} plans to be measured; see above")
    progress.say(f"measured {len(profiles)} of {len(plans)} plans in {time.perf_counter() - start:.1f} s")
    return profiles, len(found[0])
