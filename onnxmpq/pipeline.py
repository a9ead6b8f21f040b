"""The pipeline, top to bottom as the data flows: prepare, calibrate, cost, sensitivity, allocate, rewrite, validate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmpq.allocate import Budgets, parse_budgets
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
from onnxmpq.floors import MetricFunction, parse_floors
from onnxmpq.integrity import require_whole
from onnxmpq.isolation import call, isolated
from onnxmpq.lint import lint_export
from onnxmpq.menu import (
    candidates,
    needing_unsigned_weights,
    one_activation_format,
    within_float16,
    without_underflow,
    worthwhile,
)
from onnxmpq.model import prepare
from onnxmpq.output import check_writable, write_model, write_text
from onnxmpq.plan import Plan
from onnxmpq.progress import Progress
from onnxmpq.ranges.exchange import Calibration
from onnxmpq.report import Report, build_plan, build_report, foreign_latency_note, narrow_ends_note, source_name
from onnxmpq.reproducer import remember
from onnxmpq.runtime import CPU, SessionSettings, absolute, outputs_on, require_provider
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.window import warn_outside
from onnxmpq.sensitivity import OutputKind
from onnxmpq.sensitivity.divergence import guess_kind
from onnxmpq.stages.candidates import (
    require_candidates,
    require_half,
    storage_only,
    used_when_fastest,
    widest_weights,
)
from onnxmpq.stages.costs import CLEARLY, int8_everywhere, judge_costs, quick_latency_s, require_unmet
from onnxmpq.stages.disagreement import as_shipped, disagreement
from onnxmpq.stages.effects import pose, sensitivity
from onnxmpq.stages.exactness import RULE, Exactness
from onnxmpq.stages.finish import Examiner, Job, Labelled, finish
from onnxmpq.stages.level import at_unseen_level
from onnxmpq.stages.ranges import ROUNDING, calibrate, known_ranges, prepare_bench, require_estimator
from onnxmpq.stages.rescale import Rescaling, rescale, with_factors
from onnxmpq.stages.samples import check_prepared, gather_samples
from onnxmpq.stages.threads import with_one_blas_thread
from onnxmpq.stages.weights import round_for_inputs, with_stored_weights
from onnxmpq.target.load import load_target
from onnxmpq.weights import without as all_but

DEFAULT_SAMPLES = 64
PROFILE_SAMPLES = 8  # enough for activation ranges that only have to be plausible


@dataclass(frozen=True)
class Result:
    """What `convert` hands back. model: the mixed-precision graph."""

    model: onnx.ModelProto
    plan: Plan
    report: Report


@with_one_blas_thread
@isolated()
def convert(
    model: str | Path | onnx.ModelProto,
    *,
    latency: str | None = None,
    size: str | None = None,
    energy: str | None = None,
    calibration: Any = None,
    recipe: str | None = None,
    target: str = "cpu",
    provider: str | None = None,
    deploy_cpu: str = "any",
    threads: int = 1,
    samples: int = DEFAULT_SAMPLES,
    output: str | Path | None = None,
    exclude: Iterable[str] = (),
    schemes: Iterable[str] = (),
    opset: int | None = None,
    batch: int | None = None,
    keep_io: bool = True,
    outputs: Mapping[str, OutputKind] | None = None,
    cost_table: str | Path | None = None,
    ranges: str | Path | Calibration | None = None,
    cache: str | Path | bool = True,
    seed: int = 0,
    without: Iterable[str] = (),
    estimator: str = "auto",
    min_sqnr: str | float | None = None,
    max_divergence: str | float | None = None,
    min_agreement: str | float | None = None,
    max_drop: str | float | None = None,
    labels: str | Path | None = None,
    metric: str | MetricFunction | None = None,
    curve: str | Path | None = None,
    guard: bool = True,
    best_effort: bool = False,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Result:
    """Convert an fp32 model to a mixed-precision one that meets the budgets, measured, with least loss of quality.

    latency: "5ms", "60%" of the original, or "fastest"; size: "3MB", "25%" or "smallest". Without any budget the
    fastest plan is made. calibration: path, `module:function`, arrays by input name, an iterable of feeds or an
    onnxruntime CalibrationDataReader; None makes inputs up. samples: at most so many calibration samples.
    provider: execution provider to measure on, instead of the target's own.
    deploy_cpu: "any", "avx2", "vnni", "arm64", or "this" for the machine at hand: where the result has to compute its
    integers exactly (docs/overflow.md). Weights that saturate no x86 kernel for "any" and "avx2", the full range of
    int8 for the others.
    cost_table: a table that `onnxmpq profile` measured, perhaps on another machine, instead of measuring here.
    estimator: how activation ranges are chosen: "minmax", "percentile", "mse" or "entropy"; "auto" chooses for each
    tensor by the error of the outputs. ranges: activations as `onnxmpq calibrate` observed them, instead of
    calibrating again. cache: a folder of values to reuse from other conversions, True for the default one
    (docs/cache.md), False for none.
    outputs: output name -> "logits", "probabilities" or "values" where the guess is wrong. output: also write the
    model there, with its plan beside it. exclude: node names, globs or /regexes/ to leave in float32. schemes: use
    no others than these. opset: of the result, 21 where nothing is given. batch: samples that a modelled target
    computes at a time; costs are per sample. keep_io: False for float16 or bfloat16 inputs and outputs where the plan
    reads and writes them so. without: names of `onnxmpq.weights.TECHNIQUES` to switch off.
    min_sqnr ("30dB"), max_divergence, min_agreement ("99%"), max_drop ("0.5%" of the metric): quality floors; without a
    budget the fastest plan that keeps them is made, with size="smallest" the smallest. labels: of the samples, for the
    metric: `module:function` or a function of (outputs by name, labels), top-1 accuracy where it is None.
    curve: a .csv to write the trade-off to: plans of least loss at other latencies (sizes, if only a size was asked).
    guard: without a floor, raise QualityError for a result that would be bad, and let `latency="fastest"` prefer the
    fastest plan that is good (docs/quality.md). best_effort: hand out the closest plan where latency, size or energy
    cannot be met; `plan.met` is False then.

    Raises the families of `onnxmpq.errors`; nothing is written then.
    """
    progress, effort, techniques = progress or Progress(), effort or Effort(), all_but(without)
    warn_outside(progress.warn)
    budgets = parse_budgets(latency, size, energy)
    floors = parse_floors(min_sqnr, max_divergence, min_agreement, max_drop)
    floors.require_labels(labels is not None or metric is not None)
    source = model if isinstance(model, onnx.ModelProto) else str(model)
    if budgets.empty:
        budgets = Budgets(fastest=True)
        what = "no budget" if floors.empty else "a quality floor and no budget"
        progress.say(f"{what} given: converting for the lowest latency (as --latency fastest)")
    require_estimator(estimator)
    device = load_target(target)
    device = device if batch is None else device.serving(batch)
    if budgets.energy:
        device.require_energy()
    if device.dialect not in DIALECTS:
        raise TargetError(f"target {device.name}: dialect {device.dialect!r} is not available; use another target")
    runs_on = device.runs_on(provider) or CPU
    deployed_on = parse_deploy_cpu(deploy_cpu, device, provider)
    exact = needs_exact_integers(deployed_on)
    require_provider(runs_on)
    if output is not None:
        check_writable(Path(output), None if isinstance(model, onnx.ModelProto) else Path(model))
        check_writable(plan_path(Path(output)))
    if curve is not None:
        check_writable(Path(curve))
    prepared, store = prepare(model, opset), Cache.of(cache, progress)
    probes.keep_in(store)
    known = known_ranges(ranges, prepared, source_name(model), progress)
    for name in set(outputs or ()) - set(prepared.output_names):
        raise UsageError(f"outputs: {name!r} is no output of the model; it has {', '.join(prepared.output_names)}")
    data = gather_samples(prepared, calibration, recipe, samples, seed, progress)
    remember(samples=data.calibration.arrays)
    check_prepared(model, prepared, data.calibration)
    labelled = Labelled.of(labels, metric)
    if labelled is not None:
        labelled.try_out(source, data)
    settings = SessionSettings(threads=threads, provider=runs_on)
    if device.cost == "measured" and cost_table is None:
        first_s = quick_latency_s(source, data.calibration, settings)
        require_unmet(budgets, prepared.source_bytes, first_s, latency_share=CLEARLY)
    dialect, excluded, requested = DIALECTS[device.dialect], tuple(exclude), frozenset(schemes)
    menu, reasons = candidates(prepared, device, dialect, excluded, requested, deployed_on)
    menu = one_activation_format(prepared, menu)
    for_size = bool(budgets.size or budgets.smallest)
    for_nothing_else = for_size and not (budgets.latency or budgets.fastest or budgets.energy)
    if for_nothing_else and device.cost == "measured":
        menu = storage_only(menu)  # w4 and w8 keep float32's latency and lose less than int8 arithmetic
    elif not for_size and device.cost == "measured":
        menu = widest_weights(menu)
    require_candidates(prepared, menu, reasons, bool(excluded))
    if not keep_io:
        require_half(menu, device)

    if known is None:  # or the ranges would be those of other scales
        rescaling = rescale(
            prepared, menu, dialect, data, outputs, for_size, techniques, progress, store, exact_integers=exact
        )
    else:
        rescaling = Rescaling(prepared)
    prepared = rescaling.model
    observation = calibrate(prepared, menu, data.calibration, progress, store, known, estimator)
    menu, overflow = within_float16(prepared, menu, observation.histograms)
    bench = prepare_bench(prepared, menu, observation, dialect, progress)
    bench = replace(bench, keep_io=keep_io, exact_integers=exact)
    menu, underflow = without_underflow(prepared, menu, bench.weights)
    menu = needing_unsigned_weights(
        prepared, menu, bench.weights, bounded=deployed_on.may_saturate, requested=requested
    )
    reasons |= overflow | underflow
    require_candidates(prepared, menu, reasons)
    layout = layout_roles(prepared, {t: len(s) for t, s in float_shapes(prepared, data.calibration).items()})
    table_file = Path(cost_table) if cost_table else None
    judge, menu, unfused = judge_costs(
        prepared, device, menu, layout, bench, data.calibration, settings, effort, table_file, seed, progress, store
    )
    original_j = judge.table.predict_j(prepared, {}) if judge.table.node_j else None
    require_unmet(budgets, prepared.source_bytes, judge.original_s, original_j)
    int8 = int8_everywhere(prepared, menu, layout)
    menu = worthwhile(menu, judge.table.node_s)
    menu = used_when_fastest(pose(prepared, menu, judge.table, None, bench.weights), judge)
    require_candidates(prepared, menu, reasons)

    bench = round_for_inputs(prepared, menu, bench, data.rounding, techniques, progress, store)
    effects = sensitivity(prepared, menu, bench, observation, data.effects, outputs, progress, store)
    bench = replace(bench, activations={**bench.activations, **effects.params})
    seen = pose(prepared, menu, judge.table, effects, bench.weights)
    effects = at_unseen_level(seen, effects, bench, data, seed, progress)
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
            seed,
            progress,
            store,
            guard,
            best_effort,
            int8,
        )
    )
    outcome = shipped.outcome
    require_whole(outcome.proto, prepared.proto, prepared.regions, keep_io=keep_io)
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

    reasons |= unfused
    plan = build_plan(
        prepared, device, budgets, floors, shipped, bench.activations, reasons, effects, threads, model, ROUNDING
    )
    notes = plan.notes if keep_io else (*plan.notes, narrow_ends_note(outcome.proto, prepared.structure))
    if foreign(deployed_on) and "latency_ms" in plan.measured:
        notes = (*notes, foreign_latency_note(deployed_on))
    if differs is not None and not differs.rounding:
        notes = (*notes, differs.in_words())
    rounding = differs.in_words() if differs is not None and differs.rounding and exactness.in_words() else ""
    proof = "; ".join(part for part in (exactness.in_words(), rounding) if part)
    plan = replace(plan, deploy_cpu=deployed_on.value, exactness=proof, notes=notes)
    plan = replace(with_stored_weights(plan, shipped.compensated), opset=opset, keep_io=keep_io)
    plan = with_factors(plan, rescaling)
    report = build_report(prepared, device, plan, shipped, data.calibration, reasons)
    points = trade_off(outcome.problem, "size" if for_nothing_else else "latency") if curve is not None else ()
    report = replace(report, reused=store.reused, timings=judge.timings, warnings=warned, curve=points)
    report = replace(report, proven=exactness.proven, disagreement=differs)
    if output is not None:
        write_model(Path(output), outcome.proto)
        write_text(plan_path(Path(output)), plan.to_json())
    if curve is not None:
        write_text(Path(curve), to_csv(points))
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
    menu, reasons = candidates(prepared, device, DIALECTS[device.dialect])
    require_candidates(prepared, menu, reasons)
    observation = calibrate(prepared, menu, data.calibration, progress)
    bench = prepare_bench(prepared, menu, observation, DIALECTS[device.dialect], progress)
    settings = SessionSettings(threads=threads, provider=provider or device.provider or CPU)
    layout = layout_roles(prepared, {t: len(s) for t, s in float_shapes(prepared, data.calibration).items()})
    judge, menu, _ = judge_costs(
        prepared, device, menu, layout, bench, data.calibration, settings, effort or Effort(), None, seed, progress
    )
    kernels = {name: {s.kernel for s in row} | {"fp32"} for name, row in menu.items()}
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
