"""The allocation problem, from menu, costs and effects."""

from __future__ import annotations

from onnxmpq.allocate.problem import DEFAULT, Option, Problem
from onnxmpq.allocate.quantities import QUANTITIES, RoundedWeights
from onnxmpq.cost import CostTable, common_bytes
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.sensitivity import Effects


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
    for region in model.regions:
        rows = []
        for scheme in menu[region.name]:
            if not scheme.is_fp32 and not table.offers(region.name, scheme):
                continue
            costs = {name: q.of_option(region, scheme, table, weights) for name, q in QUANTITIES.items()}
            effect = effects.of_scheme(region.name, scheme) if effects else 0.0
            rows.append(Option(scheme, costs, effect, common_bytes(model, region, scheme, weights)))
        options[region.name] = tuple(rows)
    activations = {t: effects.of_activation(t) for t in effects.activations} if effects else {}
    fixed = {name: quantity.fixed(model) for name, quantity in QUANTITIES.items()}
    return Problem(model, options, activations, table, fixed, solver)
