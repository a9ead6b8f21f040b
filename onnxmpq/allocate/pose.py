"""The allocation problem, from menu, costs and effects."""

from __future__ import annotations

from onnxmpq.allocate.problem import DEFAULT, Limits, Option, Problem
from onnxmpq.allocate.quantities import LATENCY, QUANTITIES, RoundedWeights
from onnxmpq.allocate.solvers import solve
from onnxmpq.cost import CostTable, common_bytes
from onnxmpq.errors import UsageError
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.sensitivity import Effects


def require_plan(problem: Problem) -> None:
    """Raises UsageError where no plan has all the schemes that the user set."""
    if problem.barred and solve(problem, LATENCY, Limits()) is None:
        names = ", ".join(list(problem.barred)[:3])
        raise UsageError(
            f"--set: the runtime has no plan in which {len(problem.barred)} regions ({names}, ...) have the schemes "
            "that were set; set fewer of them, or those of their neighbours too"
        )


def pose(
    model: Model,
    menu: Menu,
    table: CostTable,
    effects: Effects | None,
    weights: RoundedWeights,
    solver: str = DEFAULT,
) -> Problem:
    """The allocation problem from menu, costs and effects (all zero where they are not known yet)."""
    options: dict[str, tuple[Option, ...]] = {}
    barred: dict[str, Option] = {}
    for region in model.regions:
        rows = []
        for scheme in menu[region.name]:
            if not scheme.is_fp32 and not table.offers(region.name, scheme):
                continue
            costs = {name: q.of_option(region, scheme, table, weights) for name, q in QUANTITIES.items()}
            effect = effects.of_scheme(region.name, scheme) if effects else 0.0
            rows.append(Option(scheme, costs, effect, common_bytes(model, region, scheme, weights)))
        if menu.requires(region.name) and len(rows) > 1:
            barred[region.name], rows = rows[0], rows[1:]
        options[region.name] = tuple(rows)
    activations = {t: effects.of_activation(t) for t in effects.activations} if effects else {}
    fixed = {name: quantity.fixed(model) for name, quantity in QUANTITIES.items()}
    return Problem(model, options, activations, table, fixed, solver, barred)
