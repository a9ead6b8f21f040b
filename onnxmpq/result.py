"""The result of a conversion: the last checks of its graph, its plan, its report, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.allocate import MEMORY, Problem
from onnxmpq.compilers import Compiled
from onnxmpq.deployment import foreign
from onnxmpq.errors import BudgetError
from onnxmpq.feeds import timed_note
from onnxmpq.files import Rows, serialize, write_result, write_text
from onnxmpq.integrity import require_whole
from onnxmpq.keys import feeds_hash
from onnxmpq.lint import lint_export
from onnxmpq.menu import Menu, changed_by_rounding
from onnxmpq.model import Model
from onnxmpq.opening import Asked, Opened, as_given
from onnxmpq.page import write_report
from onnxmpq.plan import Axis, Forecast, Plan, Point, stamp, to_csv, trade_off, with_points
from onnxmpq.profiling import Footprint, measured_sessions, memory_unmet
from onnxmpq.report import (
    Report,
    account_regions,
    account_transitions,
    account_uniform,
    blocks_note,
    build_plan,
    build_report,
    cost_rows,
    coupled_note,
    curve_rows,
    few_rows_note,
    foreign_latency_note,
    idle_note,
    narrow_ends_note,
    sensitivity_rows,
    unjudged_note,
    with_factors,
    with_stored_weights,
)
from onnxmpq.request import Request, asked_for
from onnxmpq.rescale import Rescaling
from onnxmpq.samples import Samples
from onnxmpq.shipping import (
    RULE,
    Disagreement,
    Exactness,
    Job,
    Shipped,
    as_shipped,
    disagreement,
    unfolding_note,
    verified,
    verified_note,
)
from onnxmpq.shown import Shown
from onnxmpq.workbench import ROUNDING


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """The mixed-precision model, its plan, and the report; and what is known about its decisions, as rows.

    problem: that the plan solves. left_out: schemes that were not offered, and why.
    """

    model: onnx.ModelProto
    plan: Plan
    report: Report
    problem: Problem
    left_out: Mapping[tuple[str, str], str]

    @cached_property
    def sensitivity(self) -> Rows:
        """A row for every region and scheme: effect, latency, bytes, or the reason why it is not on the menu."""
        return sensitivity_rows(self.problem, self.left_out, {r.node: r.scheme for r in self.plan.layers})

    @cached_property
    def costs(self) -> Rows:
        """The cost table: regions, and changes of format and layout, in milliseconds."""
        return cost_rows(self.problem.model, self.problem.table)

    @cached_property
    def curve(self) -> Rows:
        """The trade-off curve: that which was asked for, else in latency, or in size where that alone was limited."""
        axis: Axis = "size" if "size" in self.plan.budgets and "latency" not in self.plan.budgets else "latency"
        return curve_rows(self.report.curve or trade_off(self.problem, axis))

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        return self.report.shown()


@dataclass(frozen=True)
class _Checked:
    """The last checks of a graph that is handed out.

    shipped: with `met` also by its memory. sessions: of the original and of the result, where they are of this machine.
    compiled: by the target's own compiler, where that was asked for.
    """

    shipped: Shipped
    exactness: Exactness
    differs: Disagreement | None
    sessions: tuple[Footprint, Footprint] | None
    compiled: Compiled | None

    @property
    def exact(self) -> str:
        """On which CPUs int8 computes the same, and where this one's rounding differs, in words."""
        exact, differs = self.exactness.in_words(), self.differs
        tells = exact and not self.exactness.only_there  # of the sessions that users open here
        rounding = differs.in_words() if differs is not None and differs.rounding and tells else ""
        return "; ".join(part for part in (exact, rounding) if part)


def result_of(job: Job, shipped: Shipped, asked: Asked, opened: Opened, rescaling: Rescaling, menu: Menu) -> Result:
    """A graph with its plan and its report, after the last checks."""
    request, prepared, context = asked.request, rescaling.model, job.context
    checked = _checked(job, shipped, asked, opened, prepared)
    shipped = checked.shipped
    outcome = shipped.outcome
    axis: Axis = "latency" if asked.fast or not asked.small else "size"
    drawn = request.curve is not None or request.report is not None
    curve = trade_off(outcome.problem, axis) if drawn else ()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    plan = _plan(job, checked, asked, opened, rescaling, menu, curve if request.curve is not None else (), now)
    stamp(outcome.proto, plan)
    plan = replace(plan, output_sha256=sha256(serialize(outcome.proto)).hexdigest())
    report = replace(
        build_report(prepared, asked.device, plan, shipped, job.data.calibration, menu.reasons),
        calibration=job.data.in_words().removeprefix("samples: "),
        reused=context.cache.reused,
        timings=job.costs.timings,
        sessions=checked.sessions,
        curve=curve,
        proven=checked.exactness.proven,
        only_there=checked.exactness.only_there,
        disagreement=checked.differs,
        created=now,
        regions=account_regions(outcome.problem, outcome.assignment),
        transitions=account_transitions(outcome.problem, outcome.assignment),
        uniform=account_uniform(outcome.problem, job.int8, job.costs.known, job.bench.weights),
    )
    return Result(outcome.proto, plan, report, outcome.problem, job.left_out)


def _checked(job: Job, shipped: Shipped, asked: Asked, opened: Opened, prepared: Model) -> _Checked:
    """Raises OnnxmpqError, BudgetError or CompilerError for a graph that is not handed out; warns of the rest."""
    request, outcome, progress = asked.request, shipped.outcome, job.context.progress
    require_whole(outcome.proto, prepared.proto, prepared.regions, keep_io=request.keep_io)
    exactness = Exactness.of(outcome.proto, prepared, outcome.assignment, asked.cpu)
    apart = (RULE,) if exactness.in_words() else ()
    for rule in lint_export(outcome.proto, prepared.proto, asked.device.dialect, apart):
        progress.warn(f"rule {rule}")
    if not exactness.proven:
        progress.warn(exactness.in_words())
    differs = disagreement(
        as_shipped(job.bench, shipped.compensated),
        outcome.assignment,
        job.data.calibration,
        job.quality_of.judging,
        shipped.validation,
    )
    sessions, within = _within_memory(job, shipped, asked, opened)
    met = replace(shipped, outcome=replace(outcome, met=outcome.met and within))
    compiled = verified(outcome.proto, asked.device, request.shapes, job.data.timed.first) if request.verify else None
    return _Checked(met, exactness, differs, sessions, compiled)


def _plan(
    job: Job,
    checked: _Checked,
    asked: Asked,
    opened: Opened,
    rescaling: Rescaling,
    menu: Menu,
    points: Sequence[Point],
    now: str,
) -> Plan:
    """The plan of a graph, but for the graph's own hash. now: date and time, for a plan that was measured."""
    request, shipped, prepared = asked.request, checked.shipped, rescaling.model
    outcome = shipped.outcome
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
    return replace(
        with_points(
            with_factors(
                with_stored_weights(made, shipped.compensated, _made_again(job, shipped), prepared.store.spill),
                rescaling,
            ),
            points,
            job.bench,
        ),
        options=asked_for(request),
        data=described(job.data),
        created=now if outcome.measured else "",
        forecast=Forecast.of(outcome.problem),
        opset=request.opset,
        steps_left_out=prepared.left_out,
        steps_added=prepared.added,
        keep_io=request.keep_io,
        deploy_cpu=asked.cpu.value,
        patterns=request.recorded_patterns,
        exactness=checked.exact,
        budgets={**made.budgets, **({} if request.memory is None else {MEMORY: request.memory})},
        notes=(
            *_notes(made, job, shipped, asked, prepared, checked.differs),
            *unfolding_note(asked.device, outcome.assignment),
            *([] if checked.compiled is None else [verified_note(checked.compiled)]),
        ),
    ).sealed()


def _made_again(job: Job, shipped: Shipped) -> frozenset[str]:
    """Keys of weights that were rounded to nearest, which `apply` does again: of a model that is never whole in memory,
    whose weights would fill the plan."""
    if job.bench.model.store.spill is None or "cross" in shipped.compensated.kept:
        return frozenset()
    if "gptq" in shipped.compensated.kept:
        return frozenset(shipped.compensated.few_rows)
    weights = shipped.compensated.weights.items()
    return frozenset(key for key, weight in weights if (key, weight.format.name) not in job.bench.by_samples)


def _within_memory(
    job: Job, shipped: Shipped, asked: Asked, opened: Opened
) -> tuple[tuple[Footprint, Footprint] | None, bool]:
    """Sessions of the original and of the result, where they are of this machine; and whether the limit is met.

    Raises BudgetError where it is not, unless the closest plan is asked for.
    """
    request = asked.request
    if shipped.validation.emulated or not asked.device.measured:
        return None, True
    sessions = measured_sessions(as_given(opened.source), shipped.outcome.proto, job.data.timed, asked.settings)
    unmet = "" if request.memory_limit is None else memory_unmet(request.memory_limit, *sessions)
    if unmet and not request.best_effort:
        raise BudgetError(
            f"--memory {request.memory}: {unmet}; raise it, give --size for smaller weights, or write the model all "
            "the same with --best-effort"
        )
    return sessions, not unmet


def _notes(
    made: Plan, job: Job, shipped: Shipped, asked: Asked, prepared: Model, differs: Disagreement | None
) -> tuple[str, ...]:
    """Notes that the file of the plan cannot say by itself."""
    request, outcome = asked.request, shipped.outcome
    return (
        *made.notes,
        *_timed_note(request, job.data, made),
        *blocks_note(job.effects),
        *few_rows_note(shipped.compensated.few_rows),
        *coupled_note(job.problem.table.rules.together),
        *unjudged_note(prepared.output_names, job.effects.divergence.kinds, shipped.validation),
        *idle_note(changed_by_rounding(prepared, job.bench.weights, job.effects.idle), outcome.assignment),
        *([] if request.keep_io else [narrow_ends_note(outcome.proto, prepared.proto)]),
        *([foreign_latency_note(asked.cpu)] if foreign(asked.cpu) and "latency_ms" in made.measured else []),
        *([] if differs is None or differs.rounding else [differs.in_words()]),
    )


def described(data: Samples) -> dict[str, Any]:
    """The samples, as a plan names them."""
    feeds = data.calibration
    return {"samples": len(feeds), "sha256": feeds_hash(feeds), "made_up": feeds.synthetic}


def _timed_note(request: Request, data: Samples, made: Plan) -> list[str]:
    """The inputs that latencies are about, where it is not plain."""
    found = timed_note(data.calibration, request.shapes)
    return [found] if found and (request.shapes or "latency_ms" in made.measured) else []


def write(result: Result, request: Request) -> None:
    """The files that were asked for."""
    if request.output is not None:
        write_result(Path(request.output), result.model, result.plan.to_json(), result.plan.beside())
    if request.curve is not None:
        write_text(Path(request.curve), to_csv(result.report.curve))
    if request.report is not None:
        write_report(Path(request.report), result.report.to_json())
