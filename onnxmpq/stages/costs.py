"""Costs: measured here, read from a table, or modelled."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from onnxmpq.cache import NO_CACHE, Cache
from onnxmpq.closed_loop import Workbench
from onnxmpq.cost.exchange import describe, origin, read_table
from onnxmpq.cost.judge import Judge, MeasuringJudge, PlanProfiler, TableJudge
from onnxmpq.cost.layout import Roles
from onnxmpq.cost.measure import Effort, Profile, Profiler
from onnxmpq.cost.profile import fit_table, plans_to_profile, profile_plans
from onnxmpq.cost.sampler import uniform_plans
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import TargetError
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu, Reasons, proven
from onnxmpq.model import Model
from onnxmpq.progress import Progress
from onnxmpq.ranges import tensor_shapes
from onnxmpq.runtime import SessionSettings
from onnxmpq.stages.timings import RememberingProfiler
from onnxmpq.target.lookup import lookup_table
from onnxmpq.target.roofline import roofline_table
from onnxmpq.target.types import Target


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
    cache: Cache = NO_CACHE,
) -> tuple[Judge, Menu, Reasons]:
    """Costs from this machine, from a table measured elsewhere, or from the target's model; and what they offer.

    Plans that this machine timed within the last hour are not measured again (`stages/timings.py`).
    """
    meta = describe(model, device.name, settings.provider, settings.threads)
    if table_file is not None:
        table = read_table(table_file, meta)
        progress.say(origin(table))
        offered = {n: tuple(s for s in row if s.is_float or table.offers(n, s)) for n, row in menu.items()}
        return TableJudge(model, table), offered, {}
    if device.cost != "measured":
        return TableJudge(model, modelled_table(model, device, feeds, menu)), menu, {}
    first = feeds.batch([0])
    profiler = RememberingProfiler(Profiler(model, first, settings, effort), cache, model, first, effort)
    profiles, uniform = profile(profiler, menu, layout, bench, seed, progress)
    if reused := profiler.timings.in_words():
        progress.say(reused)
    menu, unfused = proven(model, menu, profiles)
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
    profiler: PlanProfiler, menu: Menu, layout: Roles, bench: Workbench, seed: int, progress: Progress
) -> tuple[list[Profile], int]:
    """Profiles of uniform and mixed plans, and how many of them are uniform. Raises TargetError where none runs."""
    plans = plans_to_profile(bench.model, menu, layout, seed)
    uniform = len(list(uniform_plans(bench.model, menu, layout)))
    found: list[list[Profile]] = []
    start = time.perf_counter()
    with progress.stage("measuring kernels and transitions", len(plans)) as tick:
        for part in (plans[:uniform], plans[uniform:]):
            found.append(profile_plans(profiler, part, bench.build, tick, progress.warn))
    profiles = profiler.settled(found[0] + found[1])
    if not profiles:
        raise TargetError(f"{profiler.settings.provider} runs none of the {len(plans)} plans to be measured; see above")
    progress.say(f"timed {len(profiles)} of {len(plans)} plans in {time.perf_counter() - start:.1f} s")
    return profiles, len(found[0])
