"""The pipeline, top to bottom as the data flows: prepare, calibrate, cost, sensitivity, allocate, rewrite, validate."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmpq.allocate import Budgets, Limits, Option, Problem, parse_budgets, solve
from onnxmpq.closed_loop import Outcome, Workbench, close_the_loop
from onnxmpq.cost.exchange import describe, read_table
from onnxmpq.cost.judge import Judge, MeasuringJudge, TableJudge
from onnxmpq.cost.layout import Roles, layout_roles
from onnxmpq.cost.measure import Effort, Profile, Profiler, interleaved_s
from onnxmpq.cost.profile import fit_table, plans_to_profile, profile_plans
from onnxmpq.cost.sampler import uniform_plans
from onnxmpq.cost.size import base_bytes, region_bytes
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS, Dialect, Rewrite
from onnxmpq.errors import ModelError, NothingToQuantizeError, PlanError, TargetError, UsageError
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu, Reasons, candidates, proven, worthwhile
from onnxmpq.model import Model, RegionKind, prepare
from onnxmpq.output import check_writable, serialize, write_model, write_text
from onnxmpq.plan import Plan, read_plan
from onnxmpq.progress import Progress
from onnxmpq.ranges import ESTIMATORS, Observation, QuantParams, observe, tensor_shapes
from onnxmpq.report import Report, build_plan, build_report
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtime import CPU, SessionSettings, input_specs, open_session, require_provider, run
from onnxmpq.schemes import SCHEMES, Format, Scheme, scheme_named
from onnxmpq.sensitivity import Effects, OutputKind, Perturbations, measure_effects
from onnxmpq.sensitivity.divergence import guess_kind
from onnxmpq.target.load import load_target
from onnxmpq.target.lookup import lookup_table
from onnxmpq.target.roofline import roofline_table
from onnxmpq.target.types import Target
from onnxmpq.validate import Validation, compare, time_side_by_side
from onnxmpq.weights import (
    Compensated,
    Referee,
    Techniques,
    compensate,
    pack,
    pack_array,
    restore_biases,
    restore_weight,
    round_weights,
    with_biases,
)
from onnxmpq.weights import without as all_but

ROUNDING = "nearest"
DEFAULT_SAMPLES = 64
HELD_OUT_SHARE = 0.25
DECIDING_SHARE = 0.25  # of the calibration samples
FEWEST_DECIDING = 2
EFFECT_SECONDS = 40.0  # what one-at-a-time effects may take, before samples are saved
FEWEST_EFFECT_SAMPLES = 8
PROFILE_SAMPLES = 8  # enough for activation ranges that only have to be plausible
Weights = dict[tuple[str, str], QuantizedWeight]
RoundedWeights = Mapping[tuple[str, str], QuantizedWeight]


@dataclass(frozen=True)
class Result:
    """What `convert` hands back. model: the mixed-precision graph."""

    model: onnx.ModelProto
    plan: Plan
    report: Report


@dataclass(frozen=True)
class Samples:
    """Calibration samples, and others for validation. held_out: False where there are too few to hold any back."""

    calibration: Feeds
    validation: Feeds
    held_out: bool

    @property
    def rounding(self) -> Feeds:
        """Calibration samples that weights are rounded for."""
        return self.calibration.take([i for i in range(len(self.calibration)) if not self._decides(i)])

    @property
    def deciding(self) -> Feeds:
        """The other calibration samples, which decide on what rounding did; none where there are too few."""
        return self.calibration.take([i for i in range(len(self.calibration)) if self._decides(i)])

    @staticmethod
    def _decides(number: int) -> bool:
        every = round(1 / DECIDING_SHARE)
        return number % every == every - 1


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
    threads: int = 1,
    samples: int = DEFAULT_SAMPLES,
    output: str | Path | None = None,
    exclude: Iterable[str] = (),
    outputs: Mapping[str, OutputKind] | None = None,
    cost_table: str | Path | None = None,
    seed: int = 0,
    without: Iterable[str] = (),
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Result:
    """Convert an fp32 model to a mixed-precision one that meets the budgets, measured, with least loss of quality.

    latency: "5ms", "60%" of the original, or "fastest"; size: "3MB", "25%" or "smallest". Without any budget the
    fastest plan is made. calibration: path, `module:function`, arrays by input name, an iterable of feeds or an
    onnxruntime CalibrationDataReader; None makes inputs up. samples: at most so many calibration samples.
    provider: execution provider to measure on, instead of the target's own.
    cost_table: a table that `onnxmpq profile` measured, perhaps on another machine, instead of measuring here.
    outputs: output name -> "logits", "probabilities" or "values" where the guess is wrong. output: also write the
    model there, with its plan beside it. exclude: node names, globs or /regexes/ to leave in float32. without: names
    of `onnxmpq.weights.TECHNIQUES` to switch off.

    Raises the families of `onnxmpq.errors`; nothing is written then.
    """
    progress, effort, techniques = progress or Progress(), effort or Effort(), all_but(without)
    budgets = parse_budgets(latency, size, energy)
    if budgets.empty:
        budgets = Budgets(fastest=True)
        progress.say("no budget given: converting for the lowest latency (as --latency fastest)")
    device = load_target(target)
    require_provider(provider or device.provider or CPU)
    if budgets.energy:
        device.require_energy()
    if device.dialect not in DIALECTS:
        raise TargetError(f"target {device.name}: dialect {device.dialect!r} is not available; use another target")
    if output is not None:
        check_writable(Path(output), None if isinstance(model, onnx.ModelProto) else Path(model))
        check_writable(plan_path(Path(output)))
    prepared = prepare(model)
    for name in set(outputs or ()) - set(prepared.output_names):
        raise UsageError(f"outputs: {name!r} is no output of the model; it has {', '.join(prepared.output_names)}")
    data = gather_samples(prepared, calibration, recipe, samples, seed, progress)
    check_prepared(model, prepared, data.calibration)
    dialect = DIALECTS[device.dialect]
    menu, reasons = candidates(prepared, device, dialect.supports, exclude)
    if (budgets.size or budgets.smallest) and not (budgets.latency or budgets.fastest or budgets.energy):
        menu = storage_only(menu)  # w4 and w8 keep float32's latency and lose less than int8 arithmetic
    require_candidates(prepared, menu)

    observation = calibrate(prepared, menu, data.calibration, progress)
    bench = prepare_bench(prepared, menu, observation, dialect, progress)
    settings = SessionSettings(threads=threads, provider=provider or device.provider or CPU)
    layout = layout_roles(prepared, {t: len(s) for t, s in float_shapes(prepared, data.calibration).items()})
    table_file = Path(cost_table) if cost_table else None
    judge, menu, unfused = judge_costs(
        prepared, device, menu, layout, bench, data.calibration, settings, effort, table_file, seed, progress
    )
    menu = worthwhile(menu, judge.table)
    menu = used_when_fastest(pose(prepared, menu, judge.table, None, bench.weights), judge)
    require_candidates(prepared, menu)

    bench = round_for_inputs(prepared, menu, bench, data.rounding, techniques, progress)
    effects = sensitivity(prepared, menu, bench, observation, data.calibration, outputs, progress)
    bench = replace(bench, activations={**bench.activations, **effects.params})
    problem = pose(prepared, menu, judge.table, effects, bench.weights)
    outcome = close_the_loop(problem, budgets, bench, judge, prepared.source_bytes, progress)
    compensated = compensate_plan(bench, outcome, data, effects, techniques, progress)
    outcome = rebuilt(bench, outcome, compensated)
    validation = validate_result(model, outcome, data, effects.divergence.kinds, settings, effort, progress)

    reasons |= unfused
    plan = build_plan(prepared, device, budgets, outcome, bench.activations, reasons, effects, threads, model, ROUNDING)
    plan = with_stored_weights(plan, compensated)
    report = build_report(prepared, device, plan, outcome, validation, data.calibration, reasons)
    if output is not None:
        write_model(Path(output), outcome.proto)
        write_text(plan_path(Path(output)), plan.to_json())
    return Result(outcome.proto, plan, report)


def gather_samples(
    model: Model, calibration: Any, recipe: str | None, limit: int, seed: int, progress: Progress
) -> Samples:
    """Read the samples and hold every fourth one back for validation."""
    specs = input_specs(open_session(model.proto))
    feeds = load_feeds(calibration, specs, recipe=recipe, limit=limit + limit // 3, seed=seed)
    for note in feeds.notes:
        (progress.warn if feeds.synthetic else progress.say)(note)
    count = len(feeds)
    every = round(1 / HELD_OUT_SHARE)
    if count < every:
        progress.warn(f"only {count} calibration sample(s): quality is validated on the same samples")
        return Samples(feeds, feeds, False)
    back = [i for i in range(count) if i % every == every - 1]
    return Samples(feeds.take([i for i in range(count) if i % every != every - 1]), feeds.take(back), True)


def check_prepared(source: Any, model: Model, feeds: Feeds) -> None:
    """The prepared graph must compute what the original does. Raises ModelError."""
    original = open_session(source if isinstance(source, onnx.ModelProto) else str(source))
    inputs = feeds.batch([0])
    for name, before, after in zip(
        model.output_names, run(original, inputs), run(open_session(model.proto), inputs), strict=True
    ):
        if not np.issubdtype(before.dtype, np.floating):
            continue
        if not np.isfinite(before).all():
            raise ModelError(f"the model computes NaN or infinity at output {name!r} for the first sample; check both")
        reach = float(np.abs(before).max(initial=0.0)) or 1.0
        if float(np.abs(np.subtract(before, after)).max(initial=0.0)) > 1e-3 * reach:
            raise ModelError(f"folding or raising the opset changed output {name!r}; please report this model")


def storage_only(menu: Menu) -> Menu:
    return {name: tuple(s for s in schemes if s.reads is Format.FLOAT) for name, schemes in menu.items()}


def require_candidates(model: Model, menu: Menu) -> None:
    """Raises NothingToQuantizeError where no layer has a choice."""
    if not any(len(menu[r.name]) > 1 for r in model.layers):
        already = f"; {len(model.already_quantized)} nodes are already quantized" if model.already_quantized else ""
        raise NothingToQuantizeError(
            f"none of the model's {len(model.layers)} layers can be quantized (Conv, MatMul, Gemm or Gather with a "
            f"constant float32 weight, opset 13 or newer){already}; use the model as it is"
        )


def used_when_fastest(problem: Problem, judge: Judge) -> Menu:
    """The menu, with int8 for regions without weights only where the fastest plans use it.

    Such a scheme stores nothing; it is there for speed alone. What helps neither the fastest plan by the table nor
    the fastest that was measured is dropped before its effect on the outputs is measured.
    """
    fastest = solve(problem, "latency", Limits())
    used = set(fastest.assignment if fastest else ())
    if judge.known:
        used |= set(min(judge.known, key=lambda pair: pair[1])[0])
    return {
        name: tuple(o.scheme for o in options if problem.regions[name].layer or o.scheme.is_float or name in used)
        for name, options in problem.options.items()
    }


def activation_tensors(model: Model, menu: Menu) -> list[str]:
    """Root tensors that some int8 scheme on the menu reads or writes, in graph order."""
    roots = model.roots
    touched = [
        t
        for region in model.regions
        if any(s.reads is Format.INT8 for s in menu[region.name])
        for t in (*region.inputs, *region.outputs)
    ]
    return list(dict.fromkeys(roots.get(t, t) for t in touched))


def calibrate(model: Model, menu: Menu, feeds: Feeds, progress: Progress) -> Observation:
    """Histograms of all activations that may be quantized."""
    tensors = activation_tensors(model, menu)
    if not tensors:
        return Observation({}, {})
    with progress.stage("calibrating activation ranges", 0) as tick:
        return observe(model, feeds, tensors, threads=workers(), tick=tick)


def prepare_bench(
    model: Model, menu: Menu, observation: Observation, dialect: Dialect, progress: Progress
) -> Workbench:
    """Activation parameters (MSE ranges) and rounded weights for every scheme on the menu."""
    wanted = {
        (region.name, s.weight.name): (region, s.weight)
        for region in model.layers
        for s in menu[region.name]
        if s.weight is not None
    }
    weights: Weights = {}
    with progress.stage("rounding weights", len(wanted)) as tick:
        for key, (region, weight_format) in wanted.items():
            weights[key] = quantize_weight(model.weight(region), weight_format, method=ROUNDING)
            tick(1)
    activations = {t: ESTIMATORS["mse"](h) for t, h in observation.histograms.items()}
    return Workbench(model, dialect, activations, weights)


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
        offered = {n: tuple(s for s in row if s.is_float or table.offers(n, s)) for n, row in menu.items()}
        return TableJudge(model, table), offered, {}
    if device.cost != "measured":
        return TableJudge(model, modelled_table(model, device, feeds, menu)), menu, {}
    profiler = Profiler(model, feeds.batch([0]), settings, effort)
    profiles, uniform = profile(profiler, menu, layout, bench, seed, progress)
    menu, unfused = proven(model, menu, profiles)
    refit = partial(fit_table, model, uniform=uniform, meta=meta, layout=layout)
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
    profiler: Profiler, menu: Menu, layout: Roles, bench: Workbench, seed: int, progress: Progress
) -> tuple[list[Profile], int]:
    """Profiles of uniform and mixed plans, and how many of them are uniform."""
    plans = plans_to_profile(bench.model, menu, layout, seed)
    with progress.stage("measuring kernels and transitions", len(plans)) as tick:
        profiles = profile_plans(profiler, plans, bench.build, tick)
    return profiles, len(list(uniform_plans(bench.model, menu, layout)))


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
    if device.cost != "measured":
        raise TargetError(f"target {device.name} is modelled, there is nothing to measure; profile a measured target")
    prepared = prepare(model)
    data = gather_samples(prepared, calibration, recipe, PROFILE_SAMPLES, seed, progress)
    menu, _ = candidates(prepared, device, DIALECTS[device.dialect].supports)
    require_candidates(prepared, menu)
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


def round_for_inputs(
    model: Model, menu: Menu, bench: Workbench, feeds: Feeds, techniques: Techniques, progress: Progress
) -> Workbench:
    """The bench with every weight still on the menu rounded for what its layer reads in the fp32 model."""
    formats = {(r.name, s.weight.name): s.weight for r in model.layers for s in menu[r.name] if s.weight is not None}
    with progress.stage("rounding for the layers' inputs", len(formats)) as tick:
        rounded = round_weights(model, formats, feeds, techniques, threads=workers(), tick=tick)
    return replace(bench, weights={**bench.weights, **rounded})


def sensitivity(
    model: Model,
    menu: Menu,
    bench: Workbench,
    observation: Observation,
    feeds: Feeds,
    kinds: Mapping[str, OutputKind] | None,
    progress: Progress,
) -> Effects:
    """One-at-a-time effects of everything still on the menu, on as many samples as the time allows."""
    formats = {(r.name, s.weight.name) for r in model.layers for s in menu[r.name] if s.weight is not None}
    activations = {t: range_candidates(observation, t) for t in activation_tensors(model, menu)}
    tries = Perturbations({k: bench.weights[k] for k in bench.weights if k in formats}, activations)
    affordable = int(EFFECT_SECONDS / max(0.6 * forward_seconds(model, feeds) * tries.count, 1e-9))
    count = min(len(feeds), max(affordable, FEWEST_EFFECT_SAMPLES))
    chosen = feeds.take(np.linspace(0, len(feeds) - 1, count).round().astype(int).tolist())
    with progress.stage(f"sensitivity on {count} samples", tries.count) as tick:
        return measure_effects(model, chosen, tries, threads=workers(), kinds=kinds, tick=tick)


def forward_seconds(model: Model, feeds: Feeds) -> float:
    """One run of the fp32 model with the threads that sensitivity uses, in seconds."""
    session = open_session(model.proto, SessionSettings(threads=workers()))
    return float(interleaved_s([session], feeds.batch([0]), Effort(seconds=0.1, runs=2, rounds=1))[0].min())


def range_candidates(observation: Observation, tensor: str) -> list[QuantParams]:
    """Parameters worth comparing by their effect on the outputs: estimators that differ by over two percent."""
    kept: list[QuantParams] = []
    for name in ("mse", "minmax"):
        params = ESTIMATORS[name](observation.histograms[tensor])
        if all(abs(params.scale / other.scale - 1.0) > 0.02 for other in kept):
            kept.append(params)
    return kept


def pose(model: Model, menu: Menu, table: CostTable, effects: Effects | None, weights: RoundedWeights) -> Problem:
    """The allocation problem from menu, costs and effects (all zero where they are not known yet)."""
    harm = {key: effects.of_weight(key) for key in effects.weights} if effects else {}
    options: dict[str, tuple[Option, ...]] = {}
    for region in model.regions:
        rows = []
        for scheme in menu[region.name]:
            if not scheme.is_float and not table.offers(region.name, scheme):
                continue
            stores = region.layer is not None and scheme.weight is not None
            effect = harm.get((region.name, scheme.weight.name), 0.0) if stores and scheme.weight else 0.0
            size = region_bytes(region, scheme, weights)
            cost = table.scheme_s(region.name, scheme), table.scheme_j(region.name, scheme)
            rows.append(Option(scheme, cost[0], size, effect, cost[1]))
        options[region.name] = tuple(rows)
    activations = {t: effects.of_activation(t) for t in effects.activations} if effects else {}
    return Problem(model, options, activations, table, base_bytes(model))


def compensate_plan(
    bench: Workbench, outcome: Outcome, data: Samples, effects: Effects, techniques: Techniques, progress: Progress
) -> Compensated:
    """The plan's weights rounded again in sequence and its biases corrected, where held-back samples are for it."""
    formats = {name: s.weight.name for name, s in outcome.assignment.items() if s.weight is not None}
    weights = {n: bench.weights[n, f] for n, f in formats.items() if bench.model.region(n).layer is not None}
    deciding = data.deciding
    if len(deciding) < FEWEST_DECIDING or not weights:
        return Compensated(weights, {}, {}, ())

    def build(model: Model, changed: Mapping[str, QuantizedWeight]) -> onnx.ModelProto:
        stored = {(name, weight.format.name): weight for name, weight in changed.items()}
        return replace(bench, model=model, weights=stored).build(outcome.assignment)

    referee = Referee.of(bench.model, effects.divergence, deciding, SessionSettings(threads=workers()))
    with progress.stage("rounding the plan in sequence", 2 * len(weights)) as tick:
        found = compensate(
            bench.model, weights, build, data.rounding, referee, techniques, threads=workers(), tick=tick
        )
    limit = outcome.size_limit_bytes
    if limit is not None and rebuilt(bench, outcome, found).kept.size_bytes > limit:
        found = replace(found, weights=weights, biases={}, kept=())  # other block multipliers may take a few bytes more
    losses = ", ".join(f"{step} {loss:.4g}" for step, loss in found.losses.items())
    progress.say(f"divergence on {len(deciding)} samples that rounding has not seen: {losses}")
    return found


def rebuilt(bench: Workbench, outcome: Outcome, compensated: Compensated) -> Outcome:
    """The outcome with these weights and biases in its model; schemes, and so kernels, stay as they were measured."""
    weights = {(name, weight.format.name): weight for name, weight in compensated.weights.items()}
    model = with_biases(bench.model, compensated.biases)
    proto = replace(bench, model=model, weights=weights).build(outcome.assignment)
    return replace(outcome, proto=proto, kept=replace(outcome.kept, size_bytes=len(serialize(proto))))


def with_stored_weights(plan: Plan, compensated: Compensated) -> Plan:
    """The plan with all weights and biases that `apply` could not make again without the samples."""
    biases = {name: pack_array(values.astype("<f4")) for name, values in compensated.biases.items()}
    weights = {name: pack(weight) for name, weight in compensated.weights.items()}
    return replace(plan, compensation=dict(compensated.losses), weights=weights, biases=biases)


def validate_result(
    source: Any,
    outcome: Outcome,
    data: Samples,
    kinds: Mapping[str, OutputKind],
    settings: SessionSettings,
    effort: Effort,
    progress: Progress,
) -> Validation:
    """Quality on held-out samples and latency side by side with the original file."""
    original = source if isinstance(source, onnx.ModelProto) else str(source)
    with progress.stage("validating", 0):
        quality = compare(
            original,
            outcome.proto,
            data.validation,
            kinds,
            settings=settings,
            held_out=data.held_out,
        )
        longer = replace(effort, seconds=2 * effort.seconds, rounds=2 * effort.rounds)
        timing = time_side_by_side(original, outcome.proto, data.calibration, settings, longer)
    return replace(quality, timing=timing)


def validate(
    original: str | Path, converted: str | Path, feeds: Feeds, settings: SessionSettings | None = None
) -> Validation:
    """Compare two model files on samples: quality per output, and latency side by side on the first sample."""
    settings = settings or SessionSettings()
    first = run(open_session(original, settings), feeds.batch([0]))
    proto = onnx.load(original, load_external_data=False)
    names = [o.name for o in proto.graph.output]
    kinds = {
        n: guess_kind(proto, n, np.asarray(v, np.float32))
        for n, v in zip(names, first, strict=True)
        if np.issubdtype(v.dtype, np.floating)
    }
    found = compare(original, converted, feeds, kinds, settings=settings, held_out=False)
    return replace(found, timing=time_side_by_side(original, converted, feeds, settings, Effort(seconds=2.0)))


def apply(
    model: str | Path | onnx.ModelProto, plan: Plan | str | Path, *, output: str | Path | None = None
) -> onnx.ModelProto:
    """Write a plan into a model again, byte for byte as `convert` did.

    Raises PlanError where the plan belongs to another model, names a node or scheme that does not exist, or lacks
    parameters that it needs.
    """
    plan = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    if output is not None:
        check_writable(Path(output), None if isinstance(model, onnx.ModelProto) else Path(model))
    prepared = prepare(model)
    if prepared.source_sha256 != plan.model.get("sha256"):
        raise PlanError(f"the plan belongs to another model ({plan.model.get('name')}, other content); plan this one")
    proto = rebuild(prepared, plan)
    if output is not None:
        write_model(Path(output), proto)
    return proto


def rebuild(model: Model, plan: Plan) -> onnx.ModelProto:
    """The mixed-precision graph of a plan. Raises PlanError."""
    if plan.dialect not in DIALECTS:
        raise PlanError(f"field dialect: {plan.dialect!r} is unknown; use one of {', '.join(DIALECTS)}")
    dialect, regions = DIALECTS[plan.dialect], {r.name: r for r in model.regions}
    for name in (row.node for row in plan.layers if row.node not in regions):
        raise PlanError(f"layers: node {name!r} is not in the model; `onnxmpq inspect` lists the names")
    assignment: dict[str, Scheme] = {}
    weights: Weights = {}
    for name, scheme_name in plan.schemes.items():
        region, scheme = regions[name], _known_scheme(scheme_name)
        if scheme is None:
            raise PlanError(
                f"layers: node {name!r} has unknown scheme {scheme_name!r}; use one of {', '.join(SCHEMES)}"
            )
        if region.kind is RegionKind.FLOAT or not dialect.supports(region, scheme, model.opset):
            raise PlanError(f"layers: node {name!r} ({region.op_type}) cannot have scheme {scheme_name!r}")
        assignment[name] = scheme
        if region.layer is not None and scheme.weight is not None:
            weights[name, scheme.weight.name] = restore_weight(
                model, region, scheme.weight, plan.weights, plan.rounding
            )
    model = restore_biases(model, plan.biases)
    try:
        return dialect.rewrite(Rewrite(model, assignment, plan.activations, weights, model.roots))
    except KeyError as error:
        raise PlanError(f"activations: no parameters for tensor {error}; convert again instead of editing") from None


def _known_scheme(name: str) -> Scheme | None:
    try:
        return scheme_named(name)
    except UsageError:
        return None


def plan_path(output: Path) -> Path:
    """model.mpq.onnx -> model.mpq.plan.json"""
    return output.with_name(output.name.removesuffix(".onnx") + ".plan.json")


def workers() -> int:
    """Threads for stages whose time is not being measured."""
    return max(os.cpu_count() or 1, 1)
