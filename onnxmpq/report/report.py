"""The account of a conversion: the plan with its reasons, and a report for people and for pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxmpq.allocate import QUANTITIES
from onnxmpq.closed_loop import Outcome
from onnxmpq.cost import Timings
from onnxmpq.feeds import Feeds
from onnxmpq.files import dump_json, plain
from onnxmpq.model import Model
from onnxmpq.plan import Plan, Point, draw
from onnxmpq.profiling import Footprint
from onnxmpq.quality import EMULATED, Validation, Verdict
from onnxmpq.report.account import RegionRow, TransitionRow, UniformRow
from onnxmpq.report.conclusion import STYLES, Conclusion, Subject, threads_in_words
from onnxmpq.report.planned import _first
from onnxmpq.schemes import scheme_named
from onnxmpq.shipping import Disagreement, Shipped
from onnxmpq.shown import Shown
from onnxmpq.target import Target

SCHEMA = "onnxmpq.report/1"


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
    CPU (`Plan.exactness` says it in words); only_there: and may saturate on the machine at hand. disagreement: of the
    default session with the unoptimised graph, None where they differ by rounding alone. int8: quality of int8 in every
    layer on the same samples, None where it does not run. sessions: of the original and of the result, where they were
    measured. created: date and time (UTC). regions, transitions, uniform: what the plan and uniform schemes take, as
    predicted.
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
    only_there: bool = False
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
        return Conclusion.of(Subject(*parts, only_there=self.only_there))

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
    for step in report.validation.steps:
        rates = (f"{rate:.1f} tokens/s" for rate in step.tokens_per_s)
        table.add_row(step.in_words(), *rates, _speed(step.timing.ratio))
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
    yield from filter(None, (output.disagreement() for output in report.validation.outputs))
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
