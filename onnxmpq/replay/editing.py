"""Plans that were edited by hand: checked against the model and the target, predicted again, and said to be edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxmpq.allocate import EFFECT, LATENCY, QUANTITIES, SIZE, Problem
from onnxmpq.deployment import DeployCpu
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import PlanError, TargetError, UsageError
from onnxmpq.files import nearest
from onnxmpq.menu import candidates
from onnxmpq.model import Model, RegionKind
from onnxmpq.plan import Forecast, Plan, PlannedRegion
from onnxmpq.report import effects_of_activations, simulated_note
from onnxmpq.schemes import FP32, SCHEMES, Scheme, scheme_named
from onnxmpq.target import Target, load_target

SHOWN = 3  # nodes that a line names
_BY_HAND = "set by hand"


def require_whole_plan(model: Model, plan: Plan) -> None:
    """Raises PlanError where an entry of the plan is missing, or names a node or a scheme that does not exist."""
    if plan.dialect not in DIALECTS:
        raise PlanError(f"field dialect: {plan.dialect!r} is unknown; use one of {', '.join(DIALECTS)}")
    regions = {r.name: r for r in model.regions}
    for row in plan.layers:
        if row.node not in regions:
            hint = nearest(row.node, regions, "`onnxmpq inspect` lists the names, such as")
            raise PlanError(f"layers: node {row.node!r} is not in the model; {hint}")
        if known_scheme(row.scheme) is None:
            hint = nearest(row.scheme, SCHEMES, "use one of")
            raise PlanError(f"layers: node {row.node!r} has unknown scheme {row.scheme!r}; {hint}")
    here = {row.node for row in plan.layers}
    wanted = [*plan.chosen, *(r.name for r in model.regions if r.kind is not RegionKind.FLOAT)]
    if missing := [name for name in dict.fromkeys(wanted) if name not in here]:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise PlanError(
            f"layers: no entry for node {', '.join(map(repr, missing[:SHOWN]))}{more}; put it back, with scheme "
            f"'{FP32}' to leave it in float32"
        )


def require_offered(model: Model, plan: Plan) -> None:
    """Raises PlanError where a scheme that was changed is none that the plan's target has for the region.

    A target from a file that is not here cannot be asked; the dialect still can.
    """
    changed = {r.node: r.scheme for r in plan.layers if plan.chosen and plan.chosen.get(r.node) != r.scheme}
    target = target_of(plan)
    if not changed or target is None:
        return
    menu = candidates(model, target, DIALECTS[plan.dialect], cpu=DeployCpu(plan.deploy_cpu))
    for node, scheme in changed.items():
        offered = [s.name for s in menu[node]]
        if scheme not in offered:
            raise PlanError(
                f"layers: node {node!r} ({model.region(node).op_type}) cannot have scheme {scheme!r} on target "
                f"'{plan.target}'; it has {', '.join(offered)}"
            )


def measured_target(plan: Plan) -> bool:
    """True if latencies of the plan's target are those of this machine."""
    target = target_of(plan)
    return target is not None and target.measured


def target_of(plan: Plan) -> Target | None:
    """The plan's target, None where it is not there any more."""
    try:
        return load_target(plan.target)
    except TargetError:
        return None


def known_scheme(name: str) -> Scheme | None:
    """The scheme of that name, None where there is none."""
    try:
        return scheme_named(name)
    except UsageError:
        return None


def as_edited(model: Model, plan: Plan, nearest_rounded: Sequence[str], edits: Sequence[str] = ()) -> Plan:
    """A plan whose decisions are not those that it was written with, as it now stands.

    Stale figures are gone, predictions are made anew where the plan has what they were made from. model: prepared.
    nearest_rounded: regions whose weights were rounded to nearest, for which the predicted effect is too good.
    edits: what to say of the difference, instead of the regions whose scheme changed.
    """
    found = plan.without_stale()
    lines = tuple(edits) or tuple(found.differences()) or ("other fields than schemes",)
    assignment = {node: scheme_named(name) for node, name in found.schemes.items()}
    notes = [f"edited plan: {shown_edits(lines)}", *simulated_note(assignment.values())]
    problem, missing = _problem(model, plan.forecast, found, assignment)
    if missing:
        notes.append(f"no prediction: {missing}")
    if nearest_rounded:
        notes.append(
            f"weights of {_some(nearest_rounded)} are rounded to nearest, as the plan has none for the new scheme; the "
            "predicted effect is of better ones: give --calib to round them for samples"
        )
    rows, prediction = found.layers, dict[str, float]()
    if problem is not None:
        of_activations = effects_of_activations(problem, assignment)
        rows = tuple(
            replace(_predicted_row(row, problem, assignment, found.chosen), effect_activations=of_activations[row.node])
            for row in found.layers
        )
        prediction = _prediction(problem, assignment)
    else:
        rows = tuple(_with_reason(row, found.chosen) for row in rows)
    found = replace(
        found,
        layers=rows,
        prediction=prediction,
        quality={"level": "unknown", "reasons": ["the plan was edited and not measured again"]},
        notes=tuple(notes),
        edits=lines,
        decisions_sha256=found.decided(),
    )
    return found.with_figures()


def shown_edits(edits: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f", and {len(edits) - SHOWN} more" if len(edits) > SHOWN else ""
    return ", ".join(edits[:SHOWN]) + more


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _problem(
    model: Model, forecast: Forecast | None, plan: Plan, assignment: Mapping[str, Scheme]
) -> tuple[Problem | None, str]:
    """The problem that predicts the plan, or the reason why nothing can."""
    if forecast is None:
        return None, "the plan is of a version that kept nothing to predict from"
    if unknown := forecast.unknown(assignment):
        first = unknown[0]
        why = f"{assignment[first].name} of {first} was not on the menu"
        return None, f"{why}, so it was never measured" + (f" ({len(unknown)} such regions)" if unknown[1:] else "")
    return forecast.problem(model, DeployCpu(plan.deploy_cpu)), ""


def _predicted_row(
    row: PlannedRegion, problem: Problem, assignment: Mapping[str, Scheme], chosen: Mapping[str, str]
) -> PlannedRegion:
    option = problem.option(row.node, assignment.get(row.node))
    layer = problem.regions[row.node].layer
    size = round(option.cost(SIZE)) if layer is not None else None
    figures = {"latency_ms": option.cost(LATENCY) * 1e3, "size_bytes": size, "effect": option.effect}
    return _with_reason(replace(row, **figures), chosen)  # type: ignore[arg-type]


def _with_reason(row: PlannedRegion, chosen: Mapping[str, str]) -> PlannedRegion:
    """A region in float32 has a reason, others have none."""
    if row.scheme != FP32:
        return replace(row, reason="")
    before = chosen.get(row.node, FP32)
    return row if before == FP32 and row.reason else replace(row, reason=f"{_BY_HAND}: {before} was chosen")


def _prediction(problem: Problem, assignment: Mapping[str, Scheme]) -> dict[str, float]:
    """Totals of the plan and of the original, by figure, as `build_plan` has them."""
    found = {
        q.figure: q.in_figures(problem.total(n, assignment)) for n, q in QUANTITIES.items() if problem.total(n, {})
    }
    found[EFFECT] = problem.effect(assignment)
    for name, quantity in QUANTITIES.items():
        if name != SIZE and problem.total(name, {}):
            found[f"original_{quantity.figure}"] = quantity.in_figures(problem.total(name, {}))
    return found
