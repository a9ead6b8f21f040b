"""The pipeline, top to bottom as the data flows: prepare, calibrate, cost, sensitivity, allocate, rewrite, validate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onnxmpq.allocate import at_unseen_level, int8_everywhere, pose, quantized_when_fastest, require_plan, require_unmet
from onnxmpq.cache import Cache
from onnxmpq.cluster import on_cluster
from onnxmpq.context import Context
from onnxmpq.cost import Effort, PlanCosts
from onnxmpq.decoding import load_samples
from onnxmpq.errors import OnnxmpqError, UsageError
from onnxmpq.feeds import in_words
from onnxmpq.files import nearest
from onnxmpq.forecast import Work, forecast
from onnxmpq.isolation import call, isolated
from onnxmpq.menu import (
    Menu,
    bounded_activations,
    cautious_where_idle,
    changed_by_rounding,
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
from onnxmpq.model import Model, table_rows
from onnxmpq.needs import announce
from onnxmpq.opening import Asked, Opened, as_given, in_step, open_model, say_timed
from onnxmpq.plan import narrowing, stamp_bytes
from onnxmpq.profiling import CLEARLY, plan_costs, quick_latency_s
from onnxmpq.progress import Progress, Remembering
from onnxmpq.quality import declared_rows, unresolved
from onnxmpq.ranges import Calibration, known_ranges, observe_ranges
from onnxmpq.report import Prediction, left_out, predict_job, source_name
from onnxmpq.reproducer import remember
from onnxmpq.request import Request, Source, asked_for, takes
from onnxmpq.rescale import Rescaling, in_best_order, rescale
from onnxmpq.result import Result, described, result_of, write
from onnxmpq.runtimes import Rules, absolute, probes, specs_of, warn_outside
from onnxmpq.samples import Samples
from onnxmpq.sensitivity import effects_of_menu, with_caches
from onnxmpq.shipping import Job, Labelled, QualityCheck, finish, require_verifiable
from onnxmpq.threads import with_one_blas_thread
from onnxmpq.weights import round_for_inputs
from onnxmpq.workbench import Workbench, prepare_bench


@takes(Request)
@with_one_blas_thread
@on_cluster
@isolated()
def convert(model: Source, request: Request) -> Result:
    """Convert an fp32 model to a mixed-precision one that meets the budgets, measured, with least loss of quality.

    Without any budget the fastest plan is made; with a quality floor and no budget, the fastest one that keeps it
    (with size="smallest" the smallest). Raises the families of `onnxmpq.errors`; nothing is written then.
    """
    heard = Remembering(request.progress)
    posed = _posed(model, replace(request, progress=heard))
    result = result_of(posed.job, finish(posed.job), posed.asked, posed.opened, posed.rescaling, posed.menu)
    result = replace(result, report=replace(result.report, warnings=tuple(heard.warnings)))
    write(result, request)
    return result


@takes(Request)
@with_one_blas_thread
@on_cluster
@isolated()
def predict(model: Source, request: Request) -> Prediction:
    """The plan that `convert` would start from, with its figures as predicted; nothing is written.

    Costs are measured, or read from a table, and effects are measured, but no whole plan is timed or judged. Raises
    what `convert` does, as far as predictions tell.
    """
    heard = Remembering(request.progress)
    posed = _posed(model, replace(request, progress=heard))
    return replace(predict_job(posed.job, posed.asked.budgets.spelled()), warnings=tuple(heard.warnings))


@dataclass(frozen=True)
class _Posed:
    """The job of a conversion, before any plan is made, and what it was made from."""

    job: Job
    asked: Asked
    opened: Opened
    rescaling: Rescaling
    menu: Menu


@dataclass(frozen=True)
class _Begun:
    """A conversion before anything of it is measured: the model, its samples and what could be quantized."""

    asked: Asked
    labelled: Labelled | None
    opened: Opened
    data: Samples
    known: Calibration | None
    offered: Menu


def _begun(model: Source, request: Request, context: Context) -> _Begun:
    """All that can be refused without measuring."""
    asked = Asked.of(model, request, context)
    if request.verify:
        require_verifiable(asked.device)
    probes.keep_in(context.cache)
    read = open_model(
        model,
        asked.device,
        request.opset,
        context.progress,
        provider=asked.settings.provider,
        replan_blocks=request.replan_blocks,
    )
    if not read.model.layers:
        asked.menu(read)  # says so before any data is read, which need not fit then
    known = known_ranges(request.ranges, read.model, source_name(model), context)
    labelled = Labelled.of(request.labels, request.metric)
    opened, data, labelled = _samples(read, asked, labelled, context)
    offered = asked.menu(opened)
    for note in offered.asked.notes:
        context.progress.say(note)
    announce(opened.model, offered, data.calibration, context.progress, request.techniques)
    return _Begun(asked, labelled, opened, data, known, offered)


def _posed(model: Source, request: Request) -> _Posed:
    """From the request to the allocation problem."""
    progress, effort, techniques = request.progress or Progress(), request.effort or Effort(), request.techniques
    warn_outside(progress.warn)
    context = Context(progress, Cache.of(request.cache, progress), request.seed)
    begun = _begun(model, request, context)
    asked, opened, data, known, offered = begun.asked, begun.opened, begun.data, begun.known, begun.offered

    rescaling = Rescaling(opened.model) if known is not None else _rescaled(opened, offered, data, asked, context)
    scaled, tensors = rescaling.model, observed_tensors(rescaling.model, offered)
    observation = observe_ranges(scaled, tensors, data.calibration, context, known, request.estimator)
    rescaling = in_best_order(rescaling, offered, techniques, context)  # ranges are those of any order
    prepared = rescaling.model
    bounded = bounded_activations(prepared, offered, observation.histograms)
    representable = within_float16(prepared, bounded, observation.histograms)
    nearest = replace(
        prepare_bench(prepared, representable, observation, opened.dialect, context),
        keep_io=request.keep_io,
        exact_integers=asked.exact_integers,
        stamp_bytes=stamp_bytes(prepared.structure, opened.device.name, asked_for(request), described(data)),
    )
    writable = _writable(representable, nearest, asked)
    rules = opened.rules(prepared, data.timed.first, request.couple)
    costs, fused = _costs(nearest, writable, rules, data, asked, effort, context)
    worth_it = _worth_an_effect(fused, nearest, costs, small=asked.small)

    forward_s = costs.original_s if costs.measured else None
    progress.expect(forecast(Work.of(prepared, worth_it, data, forward_s, effort, context.threads, request.effects)))
    formats = weight_formats(prepared, worth_it)
    rounded = nearest.with_weights(round_for_inputs(prepared, formats, data.rounding, techniques, context))
    del nearest  # of a large model, its weights take room on the disk
    kinds = with_caches(data.caches, request.outputs)
    measured = effects_of_menu(prepared, worth_it, rounded, observation, data.effects, kinds, context, request.effects)
    unknown = changed_by_rounding(prepared, rounded.weights, measured.idle)
    menu = cautious_where_idle(worth_it, unknown, request.schemes)
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
        QualityCheck(as_given(model), effects.divergence.kinds, asked.settings, begun.labelled, asked.exact_integers),
        effort,
        context,
        request.guard,
        request.best_effort,
        int8_everywhere(prepared, fused, rules),
        left_out(
            [*asked.stages(opened), *zip(_WHY, (bounded, representable, writable, fused, worth_it, menu), strict=True)]
        ),
        narrowing(asked_for(request)),
    )
    return _Posed(job, asked, opened, rescaling, menu)


_WHY = (
    "a tensor holds NaN or infinity",
    "values do not fit 16 bits",
    "weights underflow, or int8 ones without saturation are as good",
    "the runtime does not run it as planned",
    "costs more than it gains",
    "no sample shows an effect of the region, so that of few bits is not known",
)
"""Why a menu is shorter than the one before it, from what `Asked.menu` gives on."""


def _samples(
    opened: Opened, asked: Asked, labelled: Labelled | None, context: Context
) -> tuple[Opened, Samples, Labelled | None]:
    """The samples, and the model as it computes what its source does on them, after the checks that need little time:
    outputs, labels, and whether there is anything to do."""
    request, names, source = asked.request, opened.model.output_names, as_given(opened.source)
    for name in set(request.outputs or ()) - set(names):
        raise UsageError(f"outputs: {name!r} is no output of the model; {nearest(name, names, 'it has')}")
    _require_unmet_soon(opened, asked, context)
    opened, data = opened.with_samples(request.calibration, request.effective_recipe, request.samples, context)
    data, model = replace(data.at_step(request.step), shapes=request.shapes), opened.model
    remember(samples=data.calibration.examples)
    _warn_of_floors(request, model, data, labelled, context)
    labelled = None if labelled is None else labelled.tried(source, data)
    if labelled is not None and labelled.doubt:
        context.progress.warn(labelled.doubt)
    if asked.device.measured and request.cost_table is None:
        say_timed(data.timed, context.progress)
        first_s = quick_latency_s(source, data.timed, asked.settings)
        require_unmet(asked.budgets, model, first_s, latency_share=CLEARLY)
    return opened, data, labelled


def _require_unmet_soon(opened: Opened, asked: Asked, context: Context) -> None:
    """Raises AlreadyMetError where one made-up sample shows that the original is within all budgets, and no samples are
    given, which might have other shapes. Whatever else goes wrong is said later."""
    request = asked.request
    relative = any(limit.relative and limit.value < 1.0 for limit in asked.budgets.limits.values())
    known_later = request.calibration is not None or request.cost_table is not None or not asked.device.measured
    if relative or known_later or not asked.budgets.limits:
        return
    source = as_given(opened.source)
    try:
        specs = call(specs_of, absolute(source), doing="loading the model")
        bounds = table_rows(opened.model.structure)
        graph, recipe = opened.model.structure, request.effective_recipe
        one = load_samples(
            absolute(source), None, specs, structure=graph, recipe=recipe, limit=1, seed=context.seed, bounds=bounds
        )
        first_s = quick_latency_s(source, one, asked.settings)
    except OnnxmpqError:
        return
    require_unmet(asked.budgets, opened.model, first_s, latency_share=CLEARLY)


def _warn_of_floors(request: Request, model: Model, data: Samples, labelled: Labelled | None, context: Context) -> None:
    """Of floors that the held-out samples cannot tell."""
    count = len(data.validation)
    rows = declared_rows(model.structure.graph.output)
    for line in unresolved(
        request.floors, count, rows and count * rows, shares=labelled is not None and labelled.of_shares
    ):
        context.progress.warn(line)


def _rescaled(opened: Opened, menu: Menu, data: Samples, asked: Asked, context: Context) -> Rescaling:
    """The model with its channels rescaled where that helps. Not with known ranges, which are those of other scales."""
    return rescale(
        opened.model,
        menu,
        opened.dialect,
        data,
        with_caches(data.caches, asked.request.outputs),
        asked.small,
        asked.request.techniques,
        context,
        exact_integers=asked.exact_integers,
    )


def _costs(
    bench: Workbench, menu: Menu, rules: Rules, data: Samples, asked: Asked, effort: Effort, context: Context
) -> tuple[PlanCosts, Menu]:
    """Costs of plans, and what the runtime fuses. Raises AlreadyMetError where the original is within the budgets."""
    request, model, timed = asked.request, bench.model, data.timed
    table_file = Path(request.cost_table) if request.cost_table else None
    costs, fused = plan_costs(
        model,
        asked.device,
        menu,
        rules,
        bench,
        timed,
        asked.settings,
        effort,
        table_file,
        context,
        in_words(request.shapes) or in_step(timed),
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


def _worth_an_effect(menu: Menu, bench: Workbench, costs: PlanCosts, *, small: bool) -> Menu:
    """The menu without what costs more than it gains, whatever its effect. Raises NothingToQuantizeError."""
    tables = [r.name for r in bench.model.layers if small and r.operator.looks_up]
    faster = in_table(worthwhile(menu, costs.table.node_s, tables), costs.table.offers)
    without_effects = pose(bench.model, faster, costs.table, None, bench.weights)
    require_plan(without_effects)
    found = used_when_fastest(bench.model, faster, quantized_when_fastest(without_effects, costs.known))
    require_candidates(bench.model, found)
    return found
