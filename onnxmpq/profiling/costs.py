"""Costs of plans: measured here, read from a table, or modelled."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from onnxmpq.context import Context
from onnxmpq.cost import (
    CostTable,
    Crashing,
    Effort,
    MeasuredCosts,
    MixedProfiler,
    PlanCosts,
    PlanProfiler,
    Profile,
    Profiler,
    TableCosts,
    describe,
    elsewhere,
    fit_table,
    interleaved_s,
    origin,
    plans_by_kind,
    plans_to_profile,
    profile_plans,
    read_table,
    uniform_plans,
)
from onnxmpq.errors import TargetError, UsageError
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import Array, Feeds, Timed
from onnxmpq.measuring import movable, timed
from onnxmpq.menu import Menu, in_table, proven
from onnxmpq.model import Model
from onnxmpq.profiling.timings import RememberingProfiler
from onnxmpq.runtimes import REFERENCE, Rules, SessionSettings, absolute
from onnxmpq.target import Target, lookup_table, roofline_table
from onnxmpq.trials import single
from onnxmpq.workbench import Workbench

QUICK = Effort(seconds=0.2, runs=4, rounds=2)
CLEARLY = 0.9  # of a latency limit: only a first measurement of the original below it ends a conversion at once
OTHERS = 2  # samples beside the timed one that each plan runs on before it is timed


def plan_costs(
    model: Model,
    device: Target,
    menu: Menu,
    rules: Rules,
    bench: Workbench,
    feeds: Feeds | Timed,
    settings: SessionSettings,
    effort: Effort,
    table_file: Path | None,
    context: Context,
    shape: str = "",
) -> tuple[PlanCosts, Menu]:
    """Costs from this machine, from a table measured elsewhere, or from the target's model; and what they offer.

    Plans that this machine timed within the last hour are not measured again (`profiling/timings.py`). shape: of the
    samples in words, where the user chose one.
    """
    timed = Timed.of(feeds)
    meta = describe(model, device.name, settings.provider, settings.threads, shape)
    if table_file is not None:
        table = read_table(table_file, meta)
        (context.progress.warn if elsewhere(table) else context.progress.say)(origin(table))
        return TableCosts(model, replace(table, rules=rules)), in_table(menu, table.offers)
    if not device.measured or device.runtime is None:
        if len(timed.parts) > 1:
            raise UsageError(f"--shape: several shapes are for measured targets; costs of {device.name} are modelled")
        return TableCosts(model, replace(modelled_table(model, device, timed.first, menu), rules=rules)), menu
    crashing = Crashing()
    found = [
        (share, Profiler(model, part.batch([part.typical]), settings, effort, device.runtime, _others(part)))
        for share, part in timed.parts
    ]
    inputs = {f"{number} {share}": profiler.feeds for number, (share, profiler) in enumerate(found)}
    mixed: PlanProfiler = MixedProfiler(found) if len(found) > 1 else found[0][1]
    known = inputs if len(found) > 1 else found[0][1].feeds
    profiler = RememberingProfiler(mixed, context.cache, model, known, effort)
    profiles, uniform = profile(profiler, menu, rules, bench, context, crashing)
    if reused := profiler.timings.in_words():
        context.progress.say(reused)
    refit = partial(fit_table, model, uniform=uniform, meta=meta, rules=rules, mixed=len(profiles) - uniform)
    return MeasuredCosts(profiler, profiles, refit), proven(model, menu, profiles, device.runtime, crashing)


def _others(feeds: Feeds) -> list[dict[str, Array]]:
    """Samples beside the timed one: the largest and the smallest, where there are such, and the first ones."""
    ends = feeds.extremes if len(feeds.extremes) > 1 else []
    found = [i for i in dict.fromkeys((*ends, *range(len(feeds)))) if i != feeds.typical][:OTHERS]
    return list(single(feeds.take(found)))


def quick_latency_s(source: Any, feeds: Feeds | Timed, settings: SessionSettings) -> float:
    """Latency of the original in seconds, in a fraction of a second: for what has to be said before the work."""
    model = movable(absolute(source))
    return sum(
        share * timed(_quickly, model, part.batch([part.typical]), settings, doing="timing the original")
        for share, part in Timed.of(feeds).parts
    )


def _quickly(source: Any, inputs: dict[str, Array], settings: SessionSettings) -> float:
    return float(interleaved_s([REFERENCE.prepared(REFERENCE.open(source, settings), inputs)], QUICK)[0].min())


def modelled_table(model: Model, device: Target, feeds: Feeds, menu: Menu) -> CostTable:
    """Roofline or published costs for the shapes of the typical sample."""
    if device.cost == "lookup":
        return lookup_table(model, device, menu)
    return roofline_table(model, device, float_shapes(model, feeds), menu)


def profile(
    profiler: PlanProfiler,
    menu: Menu,
    rules: Rules,
    bench: Workbench,
    context: Context,
    crashing: Crashing | None = None,
) -> tuple[list[Profile], int]:
    """Profiles of uniform and mixed plans, and how many of them are uniform. Raises TargetError where none runs.

    crashing: gets the kernels that end the runtime, by region.
    """
    plans = plans_to_profile(bench.model, menu, rules, context.seed)
    uniform = len(list(uniform_plans(bench.model, menu, rules)))
    found: list[list[Profile]] = []
    crashing = {} if crashing is None else crashing
    measure = partial(profiler.profile_of, bench) if isinstance(profiler, RememberingProfiler) else None
    start = time.perf_counter()
    with context.progress.stage("measuring kernels and transitions", len(plans)) as tick:
        for part in (plans[:uniform], plans[uniform:]):
            found.append(profile_plans(profiler, part, bench.build, tick, context.progress.warn, crashing, measure))
        more = plans_by_kind(bench.model, found[0], profiler.reference_s)
        found[1] += profile_plans(profiler, more, bench.build, crashing=crashing, measure=measure)
    profiles = profiler.settled(found[0] + found[1])
    if not profiles:
        raise TargetError(f"{profiler.settings.provider} runs none of the {len(plans)} plans to be measured; see above")
    context.progress.detail(f"timed {len(profiles)} of {len(plans)} plans in {time.perf_counter() - start:.1f} s")
    return profiles, len(found[0])
