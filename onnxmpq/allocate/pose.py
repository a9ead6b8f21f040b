"""The allocation problem, from menu, costs and effects."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmpq.allocate.problem import DEFAULT, Option, Problem
from onnxmpq.cost import CostTable, base_bytes, region_bytes
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.sensitivity import Effects

RoundedWeights = Mapping[tuple[str, str], QuantizedWeight]


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
            if not scheme.is_float and not table.offers(region.name, scheme):
                continue
            size = region_bytes(region, scheme, weights)
            cost = table.scheme_s(region.name, scheme), table.scheme_j(region.name, scheme)
            effect = effects.of_scheme(region.name, scheme) if effects else 0.0
            rows.append(Option(scheme, cost[0], size, effect, cost[1]))
        options[region.name] = tuple(rows)
    activations = {t: effects.of_activation(t) for t in effects.activations} if effects else {}
    return Problem(model, options, activations, table, base_bytes(model), solver)
