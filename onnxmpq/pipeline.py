"""The pipeline, top to bottom as the data flows: prepare, calibrate, cost, sensitivity, allocate, rewrite, validate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from onnxmpq.account import account_regions, account_transitions, account_uniform
from onnxmpq.allocate import at_unseen_level, int8_everywhere, pose, quantized_when_fastest, require_unmet
from onnxmpq.cache import Cache
from onnxmpq.comparison import Validation, compare, time_side_by_side
from onnxmpq.context import Context
from onnxmpq.cost import CostTable, Effort, PlanCosts
from onnxmpq.curve import to_csv, trade_off
from onnxmpq.deployment import foreign
from onnxmpq.errors import TargetError, UsageError
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.integrity import require_whole
from onnxmpq.isolation import call, isolated
from onnxmpq.lint import lint_export
from onnxmpq.menu import (
    Menu,
    bounded_activations,
    cautious_where_idle,
    in_table,
    needing_unsigned_weights,
    observed_tensors,
    require_candidates,
    used_when_fastest,
    weight_formats,
    within_float16,
    without_underflow,
    worthwhile,
)
from onnxmpq.model import Model
from onnxmpq.opening import Asked, Opened, open_model, open_target
from onnxmpq.output import plan_path, write_model, write_text
from onnxmpq.page import write_report
from onnxmpq.plan import Plan
from onnxmpq.profiling import CLEARLY, plan_costs, quick_latency_s
from onnxmpq.progress import Progress
from onnxmpq.ranges import known_ranges, observe_ranges
from onnxmpq.report import (
    Report,
    build_plan,
    build_report,
    foreign_latency_note,
    idle_note,
    narrow_ends_note,
    source_name,
    unjudged_note,
    with_factors,
    with_stored_weights,
)
from onnxmpq.reproducer import remember
from onnxmpq.request import Request, Source, takes
from onnxmpq.rescale import Rescaling, rescale
from onnxmpq.runtimes import Rules, SessionSettings, absolute, outputs_on, probes, warn_outside
from onnxmpq.samples import Samples
from onnxmpq.sensitivity import effects_of_menu, guess_kind
from onnxmpq.shipping import (
    RULE,
    Exactness,
    Job,
    Labelled,
    QualityCheck,
    Shipped,
    as_shipped,
    disagreement,
    finish,
)
from onnxmpq.target import Target
from onnxmpq.threads import with_one_blas_thread
from onnxmpq.weights import round_for_inputs
from onnxmpq.workbench import ROUNDING, Workbench, prepare_bench

PROFILE_SAMPLES = 8  # enough for activation ranges that only have to be plausible


@dataclass(frozen=True)
class Result:
    """The mixed-precision model, its plan, and the report."""

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
    warn_outside(progress.warn)
    context = Context(progress, Cache.of(request.cache, progress), request.seed)
    asked = Asked.of(model, request, context)
    read = open_model(model, asked.device, request.opset)
    if not read.model.layers:
        asked.menu(read)  # says so before any data is read, which need not fit then
    probes.keep_in(context.cache)
    known = known_ranges(request.ranges, read.model, source_name(model), context)
    labelled = Labelled.of(request.labels, request.metric)
    opened, data = _samples(read, asked, labelled, context)
    offered = asked.menu(opened)

    rescaling = Rescaling(opened.model) if known is not None else _rescaled(opened, offered, data, asked, context)
    prepared, tensors = rescaling.model, observed_tensors(rescaling.model, offered)
    observation = observe_ranges(prepared, tensors, data.calibration, context, known, request.estimator)
    bounded = bounded_activations(prepared, offered, observation.histograms)
    representable = within_float16(prepared, bounded, observation.histograms)
    nearest = replace(
        prepare_bench(prepared, representable, observation, opened.dialect, context),
        keep_io=request.keep_io,
        exact_integers=asked.exact_integers,
    )
    writable = _writable(representable, nearest, asked)
    rules = _rules(opened.device, prepared, data.calibration)
    costs, fused = _costs(nearest, writable, rules, data, asked, effort, context)
    worth_it = _worth_an_effect(fused, nearest, costs)

    formats = weight_formats(prepared, worth_it)
    rounded = nearest.with_weights(round_for_inputs(prepared, formats, data.rounding, techniques, context))
    measured = effects_of_menu(prepared, worth_it, rounded, observation, data.effects, request.outputs, context)
    menu = cautious_where_idle(prepared, worth_it, rounded.weights, measured.idle, request.schemes)
    bench = rounded.with_activations(measured.params)
    seen = pose(prepared, menu, costs.table, measured, bench.weights, request.solver)
    effects = at_unseen_level(seen, measured, bench, data, context)
    job = Job(
        pose(prepared, menu, costs.table, effects, bench.weights, request.solver),
        asked.budgets,
        request.floors,
        bench,
        costs,
        data,
        effects,
        techniques,
        QualityCheck(_absolute(model), effects.divergence.kinds, asked.settings, labelled, asked.exact_integers),
        effort,
        context,
        request.guard,
        request.best_effort,
        int8_everywhere(prepared, fused, rules),
    )
    result = _result(job, finish(job), asked, opened, rescaling, menu)
    _write(result, request)
    return result


def _absolute(model: Source) -> Any:
    """As the reference of comparisons."""
    return model if isinstance(model, onnx.ModelProto) else str(model)


def _samples(opened: Opened, asked: Asked, labelled: Labelled | None, context: Context) -> tuple[Opened, Samples]:
    """The samples, and the model as it computes what its source does on them, after the checks that need little time:
    outputs, labels, and whether there is anything to do."""
    request, names, source = asked.request, opened.model.output_names, _absolute(opened.source)
    for name in set(request.outputs or ()) - set(names):
        raise UsageError(f"outputs: {name!r} is no output of the model; it has {', '.join(names)}")
    opened, data = opened.with_samples(request.calibration, request.recipe, request.samples, context)
    model = opened.model
    remember(samples=data.calibration.arrays)
    if labelled is not None:
        labelled.try_out(source, data)
    if asked.device.measured and request.cost_table is None:
        first_s = quick_latency_s(source, data.calibration, asked.settings)
        require_unmet(asked.budgets, model, first_s, latency_share=CLEARLY)
    return opened, data


def _rescaled(opened: Opened, menu: Menu, data: Samples, asked: Asked, context: Context) -> Rescaling:
    """The model with its channels rescaled where that helps. Not with known ranges, which are those of other scales."""
    return rescale(
        opened.model,
        menu,
        opened.dialect,
        data,
        asked.request.outputs,
        asked.small,
        asked.request.techniques,
        context,
        exact_integers=asked.exact_integers,
    )


def _costs(
    bench: Workbench, menu: Menu, rules: Rules, data: Samples, asked: Asked, effort: Effort, context: Context
) -> tuple[PlanCosts, Menu]:
    """Costs of plans, and what the runtime fuses. Raises AlreadyMetError where the original is within the budgets."""
    request, model, feeds = asked.request, bench.model, data.calibration
    table_file = Path(request.cost_table) if request.cost_table else None
    costs, fused = plan_costs(
        model, asked.device, menu, rules, bench, feeds, asked.settings, effort, table_file, context
    )
    require_unmet(asked.budgets, model, costs.original_s, costs.table)
    return costs, fused


def _writable(menu: Menu, bench: Workbench, asked: Asked) -> Menu:
    """The menu without weights that vanish or are not needed. Raises NothingToQuantizeError."""
    full = without_underflow(bench.model, menu, bench.weights)
    requested = frozenset(asked.request.schemes)
    found = needing_unsigned_weights(
        bench.model, full, bench.weights, bounded=asked.cpu.may_saturate, requested=requested
    )
    require_candidates(bench.model, found)
    return found


def _rules(device: Target, model: Model, feeds: Feeds) -> Rules:
    """The runtime's rules, for the shapes of one sample."""
    return device.rules(model, {t: len(s) for t, s in float_shapes(model, feeds).items()})


def _worth_an_effect(menu: Menu, bench: Workbench, costs: PlanCosts) -> Menu:
    """The menu without what costs more than it gains, whatever its effect. Raises NothingToQuantizeError."""
    faster = in_table(worthwhile(menu, costs.table.node_s), costs.table.offers)
    without_effects = pose(bench.model, faster, costs.table, None, bench.weights)
    found = used_when_fastest(bench.model, faster, quantized_when_fastest(without_effects, costs.known))
    require_candidates(bench.model, found)
    return found


def _result(job: Job, shipped: Shipped, asked: Asked, opened: Opened, rescaling: Rescaling, menu: Menu) -> Result:
    """The last checks of a graph, its plan and its report."""
    request, outcome, prepared, context = asked.request, shipped.outcome, rescaling.model, job.context
    require_whole(outcome.proto, prepared.proto, prepared.regions, keep_io=request.keep_io)
    exactness = Exactness.of(outcome.proto, prepared, outcome.assignment, asked.cpu)
    apart = (RULE,) if exactness.in_words() else ()
    warned = lint_export(outcome.proto, prepared.proto, asked.device.dialect, apart)
    if not exactness.proven:
        context.progress.warn(exactness.in_words())
    differs = disagreement(
        as_shipped(job.bench, shipped.compensated),
        outcome.assignment,
        job.data.calibration,
        job.quality_of.judging,
        shipped.validation,
    )
    rounding = differs.in_words() if differs is not None and differs.rounding and exactness.in_words() else ""
    made = build_plan(
        prepared,
        asked.device,
        asked.budgets,
        request.floors,
        shipped,
        job.bench.activations,
        menu.reasons,
        job.effects,
        request.threads,
        opened.source,
        ROUNDING,
    )
    plan = replace(
        with_factors(with_stored_weights(made, shipped.compensated), rescaling),
        opset=request.opset,
        steps_left_out=prepared.left_out,
        keep_io=request.keep_io,
        deploy_cpu=asked.cpu.value,
        exactness="; ".join(part for part in (exactness.in_words(), rounding) if part),
        notes=(
            *made.notes,
            *unjudged_note(prepared.output_names, job.effects.divergence.kinds, shipped.validation),
            *idle_note(job.effects.idle, outcome.assignment),
            *([] if request.keep_io else [narrow_ends_note(outcome.proto, prepared.proto)]),
            *([foreign_latency_note(asked.cpu)] if foreign(asked.cpu) and "latency_ms" in made.measured else []),
            *([] if differs is None or differs.rounding else [differs.in_words()]),
        ),
    )
    axis: Literal["latency", "size"] = "latency" if asked.fast or not asked.small else "size"
    report = replace(
        build_report(prepared, asked.device, plan, shipped, job.data.calibration, menu.reasons),
        reused=context.cache.reused,
        timings=job.costs.timings,
        warnings=warned,
        curve=() if request.curve is None and request.report is None else trade_off(outcome.problem, axis),
        proven=exactness.proven,
        disagreement=differs,
        regions=account_regions(outcome.problem, outcome.assignment),
        transitions=account_transitions(outcome.problem, outcome.assignment),
        uniform=account_uniform(outcome.problem, job.int8, job.costs.known, job.bench.weights),
    )
    return Result(outcome.proto, plan, report)


def _write(result: Result, request: Request) -> None:
    """The files that were asked for."""
    if request.output is not None:
        write_model(Path(request.output), result.model)
        write_text(plan_path(Path(request.output)), result.plan.to_json())
    if request.curve is not None:
        write_text(Path(request.curve), to_csv(result.report.curve))
    if request.report is not None:
        write_report(Path(request.report), result.report.to_json())


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
    context, device = Context(progress or Progress(), seed=seed), open_target(target)
    warn_outside(context.progress.warn)
    if not device.measured:
        raise TargetError(f"target {device.name} is modelled, there is nothing to measure; profile a measured target")
    opened, data = open_model(model, device).with_samples(calibration, recipe, PROFILE_SAMPLES, context)
    prepared, feeds = opened.model, data.calibration
    menu = opened.menu()
    require_candidates(prepared, menu)
    observation = observe_ranges(prepared, observed_tensors(prepared, menu), feeds, context)
    menu = bounded_activations(prepared, menu, observation.histograms)
    bench = prepare_bench(prepared, menu, observation, opened.dialect, context)
    settings = SessionSettings(threads=threads).on(device.runs_on(provider))
    rules = _rules(device, prepared, feeds)
    costs, fused = plan_costs(prepared, device, menu, rules, bench, feeds, settings, effort or Effort(), None, context)
    kernels = {name: {s.kernel for s in row} | {"fp32"} for name, row in fused.items()}
    offered = {n: {k: s for k, s in row.items() if k in kernels[n]} for n, row in costs.table.node_s.items()}
    return replace(costs.table, node_s=offered)


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
