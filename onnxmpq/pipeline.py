"""The pipeline, top to bottom as the data flows: prepare, calibrate, cost, sensitivity, allocate, rewrite, validate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmpq.allocate import Budgets, quantized_when_fastest
from onnxmpq.cache import Cache
from onnxmpq.comparison import Validation, compare, time_side_by_side
from onnxmpq.cost.layout import layout_roles
from onnxmpq.cost.measure import Effort
from onnxmpq.cost.table import CostTable
from onnxmpq.curve import to_csv, trade_off
from onnxmpq.deployment import deploy_cpu as parse_deploy_cpu
from onnxmpq.deployment import foreign, needs_exact_integers
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import TargetError, UsageError
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.integrity import require_whole
from onnxmpq.isolation import call, isolated
from onnxmpq.lint import lint_export
from onnxmpq.menu import (
    candidates,
    for_goal,
    in_table,
    needing_unsigned_weights,
    one_activation_format,
    require_candidates,
    require_half,
    used_when_fastest,
    within_float16,
    without_underflow,
    worthwhile,
)
from onnxmpq.model import prepare
from onnxmpq.output import check_writable, write_model, write_text
from onnxmpq.plan import Plan
from onnxmpq.progress import Progress
from onnxmpq.report import Report, build_plan, build_report, foreign_latency_note, narrow_ends_note, source_name
from onnxmpq.reproducer import remember
from onnxmpq.request import Request, Source, takes
from onnxmpq.runtime import CPU, SessionSettings, absolute, outputs_on, require_provider
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.window import warn_outside
from onnxmpq.sensitivity.divergence import guess_kind
from onnxmpq.stages.costs import CLEARLY, int8_everywhere, judge_costs, quick_latency_s, require_unmet
from onnxmpq.stages.disagreement import as_shipped, disagreement
from onnxmpq.stages.effects import pose, sensitivity
from onnxmpq.stages.exactness import RULE, Exactness
from onnxmpq.stages.finish import Examiner, Job, Labelled, finish
from onnxmpq.stages.level import at_unseen_level
from onnxmpq.stages.ranges import ROUNDING, calibrate, known_ranges, prepare_bench
from onnxmpq.stages.rescale import Rescaling, rescale, with_factors
from onnxmpq.stages.samples import check_prepared, gather_samples
from onnxmpq.stages.threads import with_one_blas_thread
from onnxmpq.stages.weights import round_for_inputs, with_stored_weights
from onnxmpq.target.load import load_target

PROFILE_SAMPLES = 8  # enough for activation ranges that only have to be plausible


@dataclass(frozen=True)
class Result:
    """What `convert` hands back. model: the mixed-precision graph."""

    model: onnx.ModelProto
    plan: Plan
    report: Report


@takes(Request)
@with_one_blas_thread
@isolated()
def convert(model: Source, request: Request) -> Result:
    """Convert an fp32 model to a mixed-precision one that meets the budgets, measured, with least loss of quality.

    Without any budget the fastest plan is made; with a quality floor and no budget, the fastest one that keeps it
    (with size="smallest" the smallest). Raises the families of `onnxmpq.errors`; nothing is written then.
    """
    progress, effort, techniques = request.progress or Progress(), request.effort or Effort(), request.techniques
    budgets, floors = request.budgets, request.floors
    warn_outside(progress.warn)
    source = model if isinstance(model, onnx.ModelProto) else str(model)
    if budgets.empty:
        budgets = Budgets(fastest=True)
        what = "no budget" if floors.empty else "a quality floor and no budget"
        progress.say(f"{what} given: converting for the lowest latency (as --latency fastest)")
    device = load_target(request.target)
    device = device if request.batch is None else device.serving(request.batch)
    if budgets.energy:
        device.require_energy()
    if device.dialect not in DIALECTS:
        raise TargetError(
            f"target {device.name}: dialect {device.dialect!r} is not available; use another request.target"
        )
    runs_on = device.runs_on(request.provider) or CPU
    deployed_on = parse_deploy_cpu(request.deploy_cpu, device, request.provider)
    exact = needs_exact_integers(deployed_on)
    require_provider(runs_on)
    if request.output is not None:
        check_writable(Path(request.output), None if isinstance(model, onnx.ModelProto) else Path(model))
        check_writable(plan_path(Path(request.output)))
    if request.curve is not None:
        check_writable(Path(request.curve))
    prepared, store = prepare(model, request.opset), Cache.of(request.cache, progress)
    probes.keep_in(store)
    known = known_ranges(request.ranges, prepared, source_name(model), progress)
    for name in set(request.outputs or ()) - set(prepared.output_names):
        raise UsageError(f"outputs: {name!r} is no output of the model; it has {', '.join(prepared.output_names)}")
    data = gather_samples(prepared, request.calibration, request.recipe, request.samples, request.seed, progress)
    remember(samples=data.calibration.arrays)
    check_prepared(model, prepared, data.calibration)
    labelled = Labelled.of(request.labels, request.metric)
    if labelled is not None:
        labelled.try_out(source, data)
    settings = SessionSettings(threads=request.threads, provider=runs_on)
    if device.cost == "measured" and request.cost_table is None:
        first_s = quick_latency_s(source, data.calibration, settings)
        require_unmet(budgets, prepared.source_bytes, first_s, latency_share=CLEARLY)
    dialect, excluded, requested = DIALECTS[device.dialect], tuple(request.exclude), frozenset(request.schemes)
    listed = candidates(prepared, device, dialect, excluded, requested, deployed_on)
    for_size = bool(budgets.size or budgets.smallest)
    for_speed = bool(budgets.latency or budgets.fastest or budgets.energy)
    consistent = one_activation_format(prepared, listed)
    offered = for_goal(consistent, small=for_size, fast=for_speed) if device.cost == "measured" else consistent
    require_candidates(prepared, offered, bool(excluded))
    if not request.keep_io:
        require_half(offered, device)

    if known is None:  # or the ranges would be those of other scales
        rescaling = rescale(
            prepared,
            offered,
            dialect,
            data,
            request.outputs,
            for_size,
            techniques,
            progress,
            store,
            exact_integers=exact,
        )
    else:
        rescaling = Rescaling(prepared)
    prepared = rescaling.model
    observation = calibrate(prepared, offered, data.calibration, progress, store, known, request.estimator)
    representable = within_float16(prepared, offered, observation.histograms)
    bench = prepare_bench(prepared, representable, observation, dialect, progress)
    bench = replace(bench, keep_io=request.keep_io, exact_integers=exact)
    writable = needing_unsigned_weights(
        prepared,
        without_underflow(prepared, representable, bench.weights),
        bench.weights,
        bounded=deployed_on.may_saturate,
        requested=requested,
    )
    require_candidates(prepared, writable)
    layout = layout_roles(prepared, {t: len(s) for t, s in float_shapes(prepared, data.calibration).items()})
    table_file = Path(request.cost_table) if request.cost_table else None
    judge, fused = judge_costs(
        prepared,
        device,
        writable,
        layout,
        bench,
        data.calibration,
        settings,
        effort,
        table_file,
        request.seed,
        progress,
        store,
    )
    original_j = judge.table.predict_j(prepared, {}) if judge.table.node_j else None
    require_unmet(budgets, prepared.source_bytes, judge.original_s, original_j)
    int8 = int8_everywhere(prepared, fused, layout)
    faster = in_table(worthwhile(fused, judge.table.node_s), judge.table.offers)
    fastest = quantized_when_fastest(pose(prepared, faster, judge.table, None, bench.weights), judge.known)
    menu = used_when_fastest(prepared, faster, fastest)
    require_candidates(prepared, menu)

    bench = round_for_inputs(prepared, menu, bench, data.rounding, techniques, progress, store)
    effects = sensitivity(prepared, menu, bench, observation, data.effects, request.outputs, progress, store)
    bench = replace(bench, activations={**bench.activations, **effects.params})
    seen = pose(prepared, menu, judge.table, effects, bench.weights)
    effects = at_unseen_level(seen, effects, bench, data, request.seed, progress)
    problem = pose(prepared, menu, judge.table, effects, bench.weights)
    examiner = Examiner(source, effects.divergence.kinds, settings, labelled, exact)
    shipped = finish(
        Job(
            problem,
            budgets,
            floors,
            bench,
            judge,
            data,
            effects,
            techniques,
            examiner,
            effort,
            request.seed,
            progress,
            store,
            request.guard,
            request.best_effort,
            int8,
        )
    )
    outcome = shipped.outcome
    require_whole(outcome.proto, prepared.proto, prepared.regions, keep_io=request.keep_io)
    exactness = Exactness.of(outcome.proto, prepared, outcome.assignment, deployed_on)
    apart = (RULE,) if exactness.in_words() else ()
    warned = lint_export(outcome.proto, prepared.proto, device.dialect, apart)
    if not exactness.proven:
        progress.warn(exactness.in_words())
    differs = disagreement(
        as_shipped(bench, shipped.compensated),
        outcome.assignment,
        data.calibration,
        examiner.judging,
        shipped.validation,
    )

    plan = build_plan(
        prepared,
        device,
        budgets,
        floors,
        shipped,
        bench.activations,
        menu.reasons,
        effects,
        request.threads,
        model,
        ROUNDING,
    )
    notes = plan.notes if request.keep_io else (*plan.notes, narrow_ends_note(outcome.proto, prepared.proto))
    if foreign(deployed_on) and "latency_ms" in plan.measured:
        notes = (*notes, foreign_latency_note(deployed_on))
    if differs is not None:
        notes = (*notes, differs.in_words())
    plan = replace(plan, deploy_cpu=deployed_on.value, exactness=exactness.in_words(), notes=notes)
    plan = replace(with_stored_weights(plan, shipped.compensated), opset=request.opset, keep_io=request.keep_io)
    plan = with_factors(plan, rescaling)
    report = build_report(prepared, device, plan, shipped, data.calibration, menu.reasons)
    points = (
        trade_off(outcome.problem, "latency" if for_speed or not for_size else "size")
        if request.curve is not None
        else ()
    )
    report = replace(report, reused=store.reused, timings=judge.timings, warnings=warned, curve=points)
    report = replace(report, proven=exactness.proven, disagreement=differs)
    if request.output is not None:
        write_model(Path(request.output), outcome.proto)
        write_text(plan_path(Path(request.output)), plan.to_json())
    if request.curve is not None:
        write_text(Path(request.curve), to_csv(points))
    return Result(outcome.proto, plan, report)


@isolated()
def profile_model(
    model: str | Path,
    *,
    calibration: Any = None,
    recipe: str | None = None,
    target: str = "cpu",
    provider: str | None = None,
    threads: int = 1,
    seed: int = 0,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> CostTable:
    """Measure a model's costs on this machine, for use by `convert(cost_table=...)` here or elsewhere."""
    progress, device = progress or Progress(), load_target(target)
    warn_outside(progress.warn)
    if device.cost != "measured":
        raise TargetError(f"target {device.name} is modelled, there is nothing to measure; profile a measured target")
    prepared = prepare(model)
    data = gather_samples(prepared, calibration, recipe, PROFILE_SAMPLES, seed, progress)
    menu = candidates(prepared, device, DIALECTS[device.dialect])
    require_candidates(prepared, menu)
    observation = calibrate(prepared, menu, data.calibration, progress)
    bench = prepare_bench(prepared, menu, observation, DIALECTS[device.dialect], progress)
    settings = SessionSettings(threads=threads, provider=provider or device.provider or CPU)
    layout = layout_roles(prepared, {t: len(s) for t, s in float_shapes(prepared, data.calibration).items()})
    judge, fused = judge_costs(
        prepared, device, menu, layout, bench, data.calibration, settings, effort or Effort(), None, seed, progress
    )
    kernels = {name: {s.kernel for s in row} | {"fp32"} for name, row in fused.items()}
    offered = {n: {k: s for k, s in row.items() if k in kernels[n]} for n, row in judge.table.node_s.items()}
    return replace(judge.table, node_s=offered)


@isolated()
def validate(
    original: str | Path, converted: str | Path, feeds: Feeds, settings: SessionSettings | None = None
) -> Validation:
    """Compare two model files on samples: quality per output, and latency side by side on the first sample."""
    settings = settings or SessionSettings()
    first = call(outputs_on, absolute(original), feeds.batch([0]), settings, doing=f"running {original}")
    proto = onnx.load(original, load_external_data=False)
    names = [o.name for o in proto.graph.output]
    kinds = {
        n: guess_kind(proto, n, np.asarray(v, np.float32))
        for n, v in zip(names, first, strict=True)
        if np.issubdtype(v.dtype, np.floating)
    }
    found = compare(original, converted, feeds, kinds, settings=settings, held_out=False)
    if found.emulated:
        return found
    return replace(found, timing=time_side_by_side(original, converted, feeds, settings, Effort(seconds=2.0)))


def plan_path(output: Path) -> Path:
    """model.mpq.onnx -> model.mpq.plan.json"""
    return output.with_name(output.name.removesuffix(".onnx") + ".plan.json")
