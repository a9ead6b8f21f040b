"""The account of a conversion: the plan with its reasons, and a report for people and for pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from onnxmpq.allocate import QUANTITIES, Budgets, Option, Problem, Stored
from onnxmpq.closed_loop import Outcome
from onnxmpq.cost import Timings
from onnxmpq.deployment import DeployCpu
from onnxmpq.feeds import Feeds
from onnxmpq.files import dump_json, plain
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.plan import Plan, PlannedRegion, Point, draw
from onnxmpq.profiling import Footprint
from onnxmpq.provenance import describe_runtime
from onnxmpq.quality import EMULATED, Floors, Timing, Validation, Verdict
from onnxmpq.ranges import QuantParams
from onnxmpq.report.account import RegionRow, TransitionRow, UniformRow, effects_of_activations
from onnxmpq.report.conclusion import STYLES, Conclusion, Subject, threads_in_words
from onnxmpq.rescale import Rescaling
from onnxmpq.schemes import Scheme, scheme_named
from onnxmpq.sensitivity import OUTPUT_KINDS, Effects, OutputKind
from onnxmpq.shipping import Disagreement, Shipped
from onnxmpq.shown import Shown
from onnxmpq.target import Target
from onnxmpq.weights import Compensated, pack, pack_array

SCHEMA = "onnxmpq.report/1"
MOST_NAMED = 5  # layers in a note


@dataclass(frozen=True)
class Coverage:
    """Weight bytes by scheme (fp32 bytes before, stored bytes after), and layers left alone with the reason."""

    before: dict[str, int]
    after: dict[str, int]
    layers: dict[str, int]
    left_alone: dict[str, str]

    @property
    def quantized_bytes(self) -> int:
        """fp32 bytes of weights that are now stored in a smaller format."""
        return sum(b for name, b in self.before.items() if name != "fp32")

    @property
    def total_bytes(self) -> int:
        return sum(self.before.values())


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """Everything `convert` prints. sizes in bytes, latencies in milliseconds, measured side by side.

    reused: by kind of value, how many came from the cache, of how many. timings: of plans, None where costs were not
    measured here. warnings: all that were shown, each once. proven: whether int8 arithmetic is exact on the deployment
    CPU (`Plan.exactness` says it in words). disagreement: of the default session with the unoptimised graph, None where
    they differ by rounding alone. int8: quality of int8 in every layer on the same samples, None where it does not run.
    sessions: of the original and of the result, where they were measured. created: date and time (UTC). regions,
    transitions, uniform: what the plan and uniform schemes take, as predicted.
    """

    model: str
    target: str
    plan: Plan
    coverage: Coverage
    activations: dict[str, int]
    rounds: tuple[dict[str, float], ...]
    validation: Validation
    verdict: Verdict
    original_bytes: int
    result_bytes: int
    calibration: str
    synthetic: bool
    notes: tuple[str, ...]
    reused: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    timings: Timings | None = None
    curve: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()
    proven: bool = True
    disagreement: Disagreement | None = None
    sessions: tuple[Footprint, Footprint] | None = None
    int8: Validation | None = None
    created: str = ""

    regions: tuple[RegionRow, ...] = ()
    transitions: tuple[TransitionRow, ...] = ()
    uniform: tuple[UniformRow, ...] = ()

    def to_json(self) -> str:
        """`to_dict` as text."""
        return dump_json(self.to_dict()) + "\n"

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        timing, layers = self.validation.timing, self.coverage.layers

        return f"{self.model} on {self.target}", [
            ("latency", "" if timing is None else f"{timing.original_s * 1e3:.3f} -> {timing.result_s * 1e3:.3f} ms"),
            ("size", f"{self.original_bytes / 1e6:.3f} -> {self.result_bytes / 1e6:.3f} MB"),
            ("layers", ", ".join(f"{count} {name}" for name, count in layers.items())),
            *((line.title, "; ".join(line.parts)) for line in self.conclusion.lines),
            ("samples", f"{self.validation.samples} {'held out' if self.validation.held_out else 'of calibration'}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, None for figures that are not finite; stored weights and the forecast stay in the plan's file."""
        plan = replace(self.plan, weights={}, biases={}, forecast=None, points=(), point_weights={})
        held: dict[str, Any] = plain(replace(self, plan=plan, curve=()))
        curve = [plain(point.figures()) for point in self.curve]
        return {"schema": SCHEMA, "conclusion": plain(self.conclusion.fields), **held, "curve": curve}

    @property
    def conclusion(self) -> Conclusion:
        """The last lines, also as data."""
        sizes = self.original_bytes, self.result_bytes
        parts = self.plan, self.validation, self.verdict, *sizes, self.int8, self.synthetic, self.proven, self.sessions
        return Conclusion.of(Subject(*parts))

    def render(self, console: Console, *, verbose: bool = False) -> None:
        """Draw it on a console, the conclusion last. verbose: also how the result came about."""
        console.print(_summary(self))
        console.print(_coverage(self.coverage))
        if self.curve:
            console.print(draw(self.curve))
        for line in _remarks(self, verbose=verbose):
            console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
        console.print()
        self.conclusion.draw(console)


def build_plan(
    model: Model,
    target: Target,
    budgets: Budgets,
    floors: Floors,
    shipped: Shipped,
    activations: Mapping[str, QuantParams],
    reasons: Mapping[str, str],
    effects: Effects,
    threads: int,
    source: Any,
    rounding: str,
) -> Plan:
    """The plan of an outcome, complete enough to be applied again."""
    outcome, problem = shipped.outcome, shipped.outcome.problem
    schemes, of_activations = outcome.assignment, effects_of_activations(problem, outcome.assignment)
    stored = problem.stored(schemes)
    rows = [
        _planned(model, region, schemes.get(name), problem.options[name], stored, reasons, of_activations[name])
        for name, region in ((r.name, r) for r in model.regions)
        if region.kind is not RegionKind.FLOAT or name in schemes
    ]
    return Plan(
        model={"name": source_name(source), "sha256": model.source_sha256, "bytes": model.source_bytes},
        target=target.name,
        dialect=target.dialect,
        budgets={**budgets.spelled(), **floors.asked()},
        layers=tuple(rows),
        activations={t: activations[t] for t in sorted(activations)},
        rounding=rounding,
        runtime={**describe_runtime(), "threads": str(threads)},
        prediction={
            **_predicted(problem, outcome.assignment, modelled=False),
            "effect": problem.effect(outcome.assignment),
            "solver_bound": outcome.solution.bound,
            "solver_gap": outcome.solution.gap,
            "original_latency_ms": problem.latency_s({}) * 1e3,
            **_predicted(problem, outcome.assignment, modelled=True),
            **_predicted(problem, {}, modelled=True, whose="original_"),
        },
        measured=_measured(outcome, shipped.validation.timing),
        met=outcome.met,
        quality={"level": shipped.verdict.level, "reasons": list(shipped.verdict.reasons)},
        notes=simulated_note(outcome.assignment.values()),
    )


def _predicted(
    problem: Problem, assignment: Mapping[str, Scheme], *, modelled: bool, whose: str = ""
) -> dict[str, float]:
    """Figures of a plan, of quantities that are only modelled or of the others; of those that the original has."""
    return {
        f"{whose}{quantity.figure}": quantity.in_figures(problem.total(name, assignment))
        for name, quantity in QUANTITIES.items()
        if quantity.modelled is modelled and problem.total(name, {})
    }


def with_stored_weights(plan: Plan, compensated: Compensated) -> Plan:
    """The plan with all weights and biases that `apply` could not make again without the samples."""
    biases = {name: pack_array(values.astype("<f4")) for name, values in compensated.biases.items()}
    weights = {name: pack(weight) for name, weight in compensated.weights.items()}
    return replace(plan, compensation=dict(compensated.losses), weights=weights, biases=biases)


def with_factors(plan: Plan, rescaling: Rescaling) -> Plan:
    """The plan with what `apply` needs to rescale the model again, and to order its channels."""
    packed = "" if rescaling.factors is None else pack_array(rescaling.factors.astype("<f4"))
    order = "" if rescaling.order is None else pack_array(rescaling.order.astype("<i4"))
    return replace(plan, factors=packed, order=order, rescaling=dict(rescaling.losses))


def simulated_note(schemes: Iterable[Scheme]) -> tuple[str, ...]:
    """Notes on schemes whose bit-widths the file has no type for."""
    found = Counter(s.name for s in schemes if s.simulated)
    if not found:
        return ()
    names = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
    return (
        f"simulated: {names}. onnxruntime has no types of these bits, so the file stores the next larger one (weights "
        "int4 or int8, activations uint8), with codes that keep to the bits of the scheme; its size and its latency "
        "here are not the target's",
    )


def unjudged_note(outputs: Sequence[str], kinds: Mapping[str, OutputKind], validation: Validation) -> list[str]:
    """Outputs whose quality is not known, but for random ones, of which the model's own notes tell."""
    judged = {o.name for o in validation.outputs}
    names = [name for name in outputs if name not in judged and OUTPUT_KINDS[kinds.get(name, "values")].deliberate]
    if not names:
        return []
    what = f"output{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    return [
        f"{what} could not be compared: the shape depends on the data, or it holds no numbers; quality is not known"
    ]


def idle_note(idle: Collection[str], assignment: Mapping[str, Scheme]) -> list[str]:
    """Quantized weights whose effect is not known. idle: regions of which no sample shows one."""
    chosen = [f"{name} ({s.name})" for name, s in assignment.items() if name in idle and s.weight is not None]
    if not chosen:
        return []
    return [
        f"no sample shows an effect of these weights, as in a branch that is never taken: "
        f"{_first(chosen)}; their quality is not known, give samples that reach them"
    ]


def blocks_note(effects: Effects) -> list[str]:
    """Effects that were measured block by block, with the spread of their gains."""
    if effects.by_blocks is None:
        return []
    gains = effects.by_blocks.gains.values()
    spreads = [g.spread for g in gains if g.spread is not None]
    doubt = f"; within a block they differ by a factor of {np.exp(np.median(spreads)):.2f}" if spreads else ""
    return [
        f"effects are measured at the ends of {len(gains) + 1} blocks, and {sum(g.changes for g in gains)} of them at "
        f"the outputs too, which gives each block's gain{doubt} (--effects full measures all at the outputs)"
    ]


def coupled_note(groups: Sequence[Sequence[str]]) -> list[str]:
    """Layers that have one scheme by `--couple`."""
    return [f"one scheme for {' + '.join(group)} (--couple)" for group in groups]


def narrow_ends_note(proto: onnx.ModelProto, source: onnx.ModelProto) -> str:
    """Inputs and outputs that are not of the source's types."""
    before = {i.name: i.type.tensor_type.elem_type for i in (*source.graph.input, *source.graph.output)}
    ends = {i.name: i.type.tensor_type.elem_type for i in (*proto.graph.input, *proto.graph.output)}
    narrow = [f"{n} {onnx.TensorProto.DataType.Name(e).lower()}" for n, e in ends.items() if e != before[n]]
    if not narrow:
        return "--no-keep-io changes nothing here: the plan reads no input and writes no output in 16 bits"
    return f"inputs and outputs in 16 bits: {', '.join(narrow)}"


def foreign_latency_note(cpu: DeployCpu) -> str:
    """That latencies are not those of the deployment CPU."""
    here = describe_runtime()
    return (
        f"latency measured on this machine (CPU {here['cpu']}, features {here['cpu_features']}), which is not the "
        f"deployment CPU ({cpu})"
    )


def _measured(outcome: Outcome, timing: Timing | None) -> dict[str, float]:
    """Figures that were measured rather than modelled: the size always, latencies where the target is this machine."""
    size: dict[str, float] = {"size_bytes": outcome.kept.size_bytes}
    if not outcome.measured:
        return size
    latencies = {"latency_ms": outcome.kept.measured_s * 1e3, "original_latency_ms": outcome.original_s * 1e3}
    if timing is not None:
        latencies["latency_ms_low"] = timing.ratio_low * timing.original_s * 1e3
        latencies["latency_ms_high"] = timing.ratio_high * timing.original_s * 1e3
    return {**latencies, **size}


def _first(names: Sequence[str]) -> str:
    """The first `MOST_NAMED` of them, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _planned(
    model: Model,
    region: Region,
    scheme: Scheme | None,
    options: tuple[Option, ...],
    stored: Mapping[str, Stored],
    reasons: Mapping[str, str],
    of_activations: float,
) -> PlannedRegion:
    name = scheme.name if scheme else "fp32"
    chosen = next(o for o in options if o.scheme.name == name)
    original = tuple(dict.fromkeys(o for n in region.nodes for o in model.origin.get(n, (n,))))
    reason = "" if scheme else _why_float(chosen, options, reasons.get(region.name, ""))
    size = round(stored[region.name].bytes) if region.layer is not None else None
    return PlannedRegion(
        region.name,
        region.op_type,
        name,
        original,
        chosen.latency_s * 1e3,
        size,
        chosen.effect,
        of_activations,
        reason,
    )


def _why_float(chosen: Option, options: tuple[Option, ...], known: str) -> str:
    others = [o for o in options if not o.scheme.is_fp32]
    if known or not others:
        return known or "no other scheme fuses here"
    faster = [o for o in others if o.latency_s < chosen.latency_s]
    if not faster:
        return "float32 is the fastest here" + _what_bytes_cost(chosen, others)
    best = min(faster, key=lambda o: o.latency_s)
    saved_us = (chosen.latency_s - best.latency_s) * 1e6
    return (
        f"kept: {best.scheme.name} would save {saved_us:.1f} us, before transitions and what its activations would "
        f"cost in quality (its weights alone: {best.effect:.2g})"
    )


def _what_bytes_cost(chosen: Option, others: list[Option]) -> str:
    """The scheme that stores least, where its bytes cost time: without a limit on latency the original's is kept."""
    smallest = min(others, key=lambda o: o.size_bytes)
    saved, slower_us = chosen.size_bytes - smallest.size_bytes, (smallest.latency_s - chosen.latency_s) * 1e6
    if saved <= 0 or slower_us <= 0:
        return ""
    return (
        f"; {smallest.scheme.name} would save {saved:.0f} bytes and take {slower_us:.1f} us more, if --latency allows"
    )


def source_name(source: Any) -> str:
    return "model" if isinstance(source, onnx.ModelProto) else Path(source).name


def build_report(
    model: Model,
    target: Target,
    plan: Plan,
    shipped: Shipped,
    calibration: Feeds,
    reasons: Mapping[str, str],
) -> Report:
    """The report of an outcome."""
    outcome = shipped.outcome
    rounds = tuple(
        {
            "predicted_ms": r.predicted_s * 1e3,
            "measured_ms": r.measured_s * 1e3,
            "size_bytes": float(r.size_bytes),
            "effect": r.effect,
        }
        for r in outcome.rounds
    )
    return Report(
        plan.model["name"],
        target.name,
        plan,
        coverage_of(model, plan, outcome),
        dict(Counter(r.scheme for r in plan.layers if r.size_bytes is None)),
        rounds,
        shipped.validation,
        shipped.verdict,
        model.source_bytes,
        outcome.kept.size_bytes,
        calibration.source,
        calibration.synthetic,
        (*model.notes, *calibration.notes, *plan.notes),
        int8=shipped.int8,
    )


def coverage_of(model: Model, plan: Plan, outcome: Outcome) -> Coverage:
    """Weight bytes before and after, by scheme; what several layers have in common counts in the first of them."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    left: dict[str, str] = {}
    rows, problem = {r.node: r for r in plan.layers}, outcome.problem
    fp32, stored = problem.stored({}), problem.stored(outcome.assignment)
    for region in model.layers:
        row = rows[region.name]
        before[row.scheme] += round(fp32[region.name].bytes)
        after[row.scheme] += round(stored[region.name].bytes)
        layers[row.scheme] += 1
        if row.scheme == "fp32":
            left[region.name] = row.reason
    return Coverage(dict(before), dict(after), dict(layers), left)


def _summary(report: Report) -> Table:
    table = Table(title=f"{report.model} on {report.target}", title_justify="left")
    for column in ("", "fp32", "onnxmpq", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    here = "" if "latency_ms" in report.plan.measured else " here, on the CPU"
    for timing in (report.validation.timing, *report.validation.other_timings):
        if timing is not None:
            times = (f"{seconds * 1e3:.3f} ms" for seconds in (timing.original_s, timing.result_s))
            table.add_row(f"latency{here}, {threads_in_words(timing.threads)}", *times, _speed(timing.ratio))
    for row in _modelled(report.plan):
        table.add_row(*row)
    for row in _of_sessions(report):
        table.add_row(*row)
    share = report.result_bytes / report.original_bytes
    table.add_row(
        "size", f"{report.original_bytes / 1e6:.3f} MB", f"{report.result_bytes / 1e6:.3f} MB", f"{share:.2f}x"
    )
    for output in report.validation.outputs:
        table.add_row(f"{output.name}: SQNR", "", f"{output.sqnr_db:.1f} dB", "")
        table.add_row(f"{output.name}: cosine", "", f"{output.cosine:.5f}", "")
        if output.kl_nats is not None and output.top1_agreement is not None:
            table.add_row(f"{output.name}: KL to fp32", "", f"{output.kl_nats:.4g} nats", "")
            table.add_row(f"{output.name}: top-1 agreement", "", f"{output.top1_agreement:.1%}", "")
        elif output.top1_agreement is not None:
            table.add_row(f"{output.name}: equal values", "", f"{output.top1_agreement:.1%}", "")
        else:
            table.add_row(f"{output.name}: relative error", "", f"{output.relative_mse:.3g}", "")
    if (metric := report.validation.metric) is not None:
        change = f"{metric.result - metric.original:+.4g}"
        table.add_row(metric.name, f"{metric.original:.4g}", f"{metric.result:.4g}", change)
    return table


def _of_sessions(report: Report) -> list[tuple[str, str, str, str]]:
    """Rows of what opening a session takes."""
    if report.sessions is None:
        return []
    before, after = report.sessions
    times = [f"{found.load_s * 1e3:.1f} ms" for found in report.sessions]
    rows = [("a session opens in", times[0], times[1], _speed(after.load_s / before.load_s))]
    if before.peak_bytes and after.peak_bytes is not None:
        taken = [f"{(found.peak_bytes or 0) / 1e6:.1f} MB" for found in report.sessions]
        rows.append(
            ("memory of a session, one run", taken[0], taken[1], f"{after.peak_bytes / before.peak_bytes:.2f}x")
        )
    return rows


def _speed(ratio: float) -> str:
    """Latency of the result over the original's, in words."""
    if f"{ratio:.2f}" == "1.00":
        return "the same"
    return f"{1 / ratio:.2f}x faster" if ratio < 1 else f"{ratio:.2f}x slower"


def _modelled(plan: Plan) -> list[tuple[str, ...]]:
    """Rows of what was not measured, such as energy, as the target's table has it."""
    rows = []
    for name, quantity in QUANTITIES.items():
        before, after = (plan.prediction.get(f"{whose}{quantity.figure}") for whose in ("original_", ""))
        if before and after is not None and quantity.figure not in plan.measured:
            shown = (quantity.unit.show(value / quantity.per_unit, ".3g") for value in (before, after))
            rows.append((f"{name} on the target, modelled", *shown, f"{after / before:.2f}x"))
    return rows


def _coverage(coverage: Coverage) -> Table:
    share = coverage.quantized_bytes / max(coverage.total_bytes, 1)
    title = f"{coverage.quantized_bytes} of {coverage.total_bytes} weight bytes quantized ({share:.1%})"
    table = Table(title=title, title_justify="left")
    for column in ("scheme", "layers", "fp32 bytes", "stored bytes", "what it is"):
        table.add_column(column, justify="left" if column in ("scheme", "what it is") else "right")
    for scheme in sorted(coverage.before, key=lambda s: -coverage.before[s]):
        table.add_row(
            scheme,
            str(coverage.layers[scheme]),
            str(coverage.before[scheme]),
            str(coverage.after[scheme]),
            scheme_named(scheme).summary,
        )
    return table


SHOWN_LAYERS = 8
SHOWN_GAP = 5e-5  # the least that does not show as 0.00%


def _remarks(report: Report, *, verbose: bool) -> Iterator[str]:
    """Lines that a user has to know beside the conclusion; with `verbose`, also how the result came about."""
    for output in report.validation.outputs:
        if output.levels_disagree:
            yield (
                f"output {output.name}: SQNR is {output.sqnr_db:.1f} dB as onnxruntime optimises the graph, "
                f"{output.sqnr_unfused_db:.1f} dB without its optimisations; check the runtime you deploy on"
            )
    yield from report.plan.notes
    if report.validation.emulated:
        yield EMULATED
    if report.plan.exactness:
        yield report.plan.exactness
    if verbose:
        yield from _details(report)
    elif left := report.coverage.left_alone:
        yield f"{len(left)} layer{'s are' if len(left) > 1 else ' is'} left in float32; --verbose and the plan say why"


def _details(report: Report) -> Iterator[str]:
    """Lines on how the result came about."""
    if left := report.coverage.left_alone:
        yield "layers left in float32:"
        yield from (f"  {name}: {reason}" for name, reason in list(left.items())[:SHOWN_LAYERS])
        if len(left) > SHOWN_LAYERS:
            yield f"  and {len(left) - SHOWN_LAYERS} more; the plan file has them all"
    for group in dict.fromkeys(frozenset((r.name, *r.shared_with)) for r in report.regions if r.shared_with):
        members = [r for r in report.regions if r.name in group]
        yield f"one weight, {sum(r.bytes or 0 for r in members)} bytes in all: {_first([r.name for r in members])}"
    if report.plan.factors:
        losses = ", ".join(f"{name} {loss:.3g}" for name, loss in report.plan.rescaling.items())
        yield f"channels of the float32 model were rescaled first; divergence of a quick model: {losses}"
    if report.plan.order:
        yield "channels of the float32 model change places: int8 weights that cannot saturate lose less by it"
    if report.timings is not None and (reused := report.timings.in_words()):
        yield reused
    if (timing := report.validation.timing) is not None:
        low, high = (ratio * 100 for ratio in (timing.ratio_low, timing.ratio_high))
        yield f"latency: 95% interval {low:.1f} to {high:.1f}% of fp32's, {timing.rounds} rounds"
    yield from (f"quality: {reason}" for reason in report.verdict.reasons)
    if (gap := report.plan.prediction.get("solver_gap", 0.0)) >= SHOWN_GAP:
        yield f"by the solver's bound no plan within these budgets has a predicted loss more than {gap:.2%} lower"


def verdict_lines(report: Report) -> list[tuple[str, str]]:
    """(text, style) of the last lines: what was asked and measured, what the quality is worth, and what to do."""
    return [(line.in_one(), STYLES[line.tone]) for line in report.conclusion.lines]
