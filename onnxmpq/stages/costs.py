"""Costs: measured here, read from a table, or modelled."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from onnxmpq.allocate import Budgets
from onnxmpq.cache import NO_CACHE, Cache
from onnxmpq.closed_loop import Workbench
from onnxmpq.cost.chains import legalize
from onnxmpq.cost.exchange import describe, elsewhere, origin, read_table
from onnxmpq.cost.judge import Judge, MeasuringJudge, PlanProfiler, TableJudge
from onnxmpq.cost.layout import Roles
from onnxmpq.cost.measure import Effort, Profile, Profiler, interleaved_s
from onnxmpq.cost.profile import Crashing, fit_table, plans_to_profile, profile_plans
from onnxmpq.cost.sampler import uniform_plans
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import AlreadyMetError, TargetError
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import Array, Feeds
from onnxmpq.isolation import call
from onnxmpq.isolation.trial import single
from onnxmpq.menu import Menu, Reasons, proven
from onnxmpq.model import Model
from onnxmpq.progress import Progress
from onnxmpq.rounding import PerChannel
from onnxmpq.runtime import SessionSettings, absolute, open_session
from onnxmpq.schemes import Format, Scheme
from onnxmpq.stages.timings import RememberingProfiler
from onnxmpq.target.lookup import lookup_table
from onnxmpq.target.roofline import roofline_table
from onnxmpq.target.types import Target

QUICK = Effort(seconds=0.2, runs=4, rounds=2)
CLEARLY = 0.9  # of a latency limit: only a first measurement of the original below it ends a conversion at once
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
    cache: Cache = NO_CACHE,
) -> tuple[Judge, Menu, Reasons]:
    """Costs from this machine, from a table measured elsewhere, or from the target's model; and what they offer.

    Plans that this machine timed within the last hour are not measured again (`stages/timings.py`).
    """
    meta = describe(model, device.name, settings.provider, settings.threads)
    if table_file is not None:
        table = read_table(table_file, meta)
        (progress.warn if elsewhere(table) else progress.say)(origin(table))
        offered = {n: tuple(s for s in row if s.is_float or table.offers(n, s)) for n, row in menu.items()}
        return TableJudge(model, table), offered, {}
    if device.cost != "measured":
        return TableJudge(model, modelled_table(model, device, feeds, menu)), menu, {}
    first, crashing = feeds.batch([0]), Crashing()
    others = single(feeds.take(range(1, len(feeds))[:OTHERS]))
    profiler = RememberingProfiler(Profiler(model, first, settings, effort, others), cache, model, first, effort)
    profiles, uniform = profile(profiler, menu, layout, bench, seed, progress, crashing)
    if reused := profiler.timings.in_words():
        progress.say(reused)
    menu = {n: tuple(s for s in row if s.is_float or s.kernel not in crashing.get(n, ())) for n, row in menu.items()}
    menu, unfused = proven(model, menu, profiles)
    unfused |= {name: f"onnxruntime crashes with {', '.join(sorted(k))} here" for name, k in crashing.items()}
    mixed = len(profiles) - uniform
    refit = partial(fit_table, model, uniform=uniform, meta=meta, layout=layout, mixed=mixed)
    return MeasuringJudge(profiler, profiles, refit), menu, unfused


def quick_latency_s(source: Any, feeds: Feeds, settings: SessionSettings) -> float:
    """Latency of the original in seconds, in a fraction of a second: for what has to be said before the work."""
    return call(_quickly, absolute(source), feeds.batch([0]), settings, doing="timing the original")


def _quickly(source: Any, inputs: dict[str, Array], settings: SessionSettings) -> float:
    return float(interleaved_s([open_session(source, settings)], inputs, QUICK)[0].min())


def require_unmet(
    budgets: Budgets, size_bytes: int, latency_s: float, energy_j: float | None = None, *, latency_share: float = 1.0
) -> None:
    """Raises AlreadyMetError where the original is within every budget: there is nothing to convert for.

    energy_j: None where it is not known yet. latency_share: of its limit that a latency must be below.
    """
    if budgets.fastest or budgets.smallest or budgets.empty:
        return
    found = []
    for name, limit, taken, unit, symbol in (
        ("latency", budgets.latency, latency_s, 1e-3, "ms"),
        ("size", budgets.size, float(size_bytes), 1e6, "MB"),
        ("energy", budgets.energy, energy_j, 1e-3, "mJ"),
    ):
        if limit is None:
            continue
        share = latency_share if name == "latency" else 1.0
        if taken is None or taken > limit.of(taken) * share:
            return
        found.append(f"--{name} {limit.of(taken) / unit:.4g} {symbol}: it takes {taken / unit:.4g} {symbol}")
    raise AlreadyMetError(
        f"the original is within the budget ({'; '.join(found)}); keep it, or ask for less: --latency fastest, or a "
        "size such as --size 30%"
    )


def int8_everywhere(model: Model, menu: Menu, layout: Roles) -> dict[str, Scheme]:
    """The plan of int8 in every region that offers it; nothing where none does. Of several int8 kernels, the first on a
    region's menu."""
    wanted = {r: s for r, row in menu.items() for s in row[::-1] if _is_static_int8(s)}
    return legalize(model, layout, wanted, menu)


def _is_static_int8(scheme: Scheme) -> bool:
    """8 bits for activations, and per channel for weights."""
    weight = scheme.weight
    eight_bit = weight is None or (isinstance(weight, PerChannel) and weight.bits == 8)
    return scheme.reads is Format.INT8 and eight_bit and not scheme.simulated


def modelled_table(model: Model, device: Target, feeds: Feeds, menu: Menu) -> CostTable:
    """Roofline or published costs for the shapes of one sample."""
    if device.cost == "lookup":
        return lookup_table(model, device, menu)
    return roofline_table(model, device, float_shapes(model, feeds), menu)


def profile(
    profiler: PlanProfiler,
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
    progress.say(f"timed {len(profiles)} of {len(plans)} plans in {time.perf_counter() - start:.1f} s")
    return profiles, len(found[0])
