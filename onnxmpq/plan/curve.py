"""The trade-off curve: plans of least loss at many limits, from one cost table and one table of effects.

Nothing is built or measured for it. `apply --point` makes the model of a point, and `convert` with a point's latency or
size as the budget one whose weights are rounded for that plan.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from rich.table import Table

from onnxmpq.allocate import EFFECT, QUANTITIES, Limits, Problem, solve
from onnxmpq.schemes import FP32, Scheme

POINTS = 12
Axis = Literal["latency", "size"]


@dataclass(frozen=True)
class Point:
    """One plan, as predicted. effect: divergence from fp32 (nats, or error over variance), summed over decisions.

    taken: by quantity, in its own unit, of those that the target can tell. schemes: layers per scheme, as
    "9 int8, 1 fp32". number: from 1, cheapest first. assignment: region -> scheme, without those left in float32.
    """

    taken: Mapping[str, float]
    effect: float
    schemes: str
    number: int = 1
    assignment: Mapping[str, Scheme] = field(default_factory=dict)

    def predicted(self) -> dict[str, float]:
        """By the names that plans have: what is measured in the end first, then the effect."""
        measured, modelled = (
            {
                q.figure: q.in_figures(self.taken[n])
                for n, q in QUANTITIES.items()
                if q.modelled is modelled and n in self.taken
            }
            for modelled in (False, True)
        )
        return {**measured, "effect": self.effect, **modelled}

    def figures(self) -> dict[str, float | str | None]:
        """A row of reports and .csv files, the same columns for every target; None for what the target cannot tell."""
        columns = dict.fromkeys(q.figure for q in QUANTITIES.values())
        return {"point": self.number, **columns, **self.predicted(), "schemes": self.schemes}


def trade_off(problem: Problem, axis: Axis, points: int = POINTS) -> tuple[Point, ...]:
    """Plans of least effect from the least latency (or size) to that of fp32, cheapest first, none dominated."""
    cheapest = solve(problem, axis, Limits())
    if cheapest is None:
        return ()
    least, most = problem.total(axis, cheapest.assignment), problem.total(axis, {})
    found: list[Point] = []
    for limit in np.geomspace(least, max(most, least), points):
        allowed = float(limit) * (1.0 + 1e-9)
        solution = solve(problem, EFFECT, Limits(**{axis: allowed}))
        if solution is None:
            continue
        effect = problem.effect(solution.assignment)
        if not found or effect < found[-1].effect:
            found.append(_point(problem, solution.assignment, effect, len(found) + 1))
    return tuple(found)


def _point(problem: Problem, plan: Mapping[str, Scheme], effect: float, number: int) -> Point:
    names = Counter(plan[r.name].name if r.name in plan else FP32 for r in problem.model.layers)
    return Point(
        {name: problem.total(name, plan) for name in QUANTITIES if problem.total(name, {})},
        effect,
        ", ".join(f"{count} {name}" for name, count in names.most_common()),
        number,
        dict(plan),
    )


def to_csv(curve: Sequence[Point]) -> str:
    """One line per point under a header of the fields' names."""
    text = io.StringIO()
    rows = [point.figures() for point in curve]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw(curve: Sequence[Point]) -> Table:
    """A row per point."""
    table = Table(
        title="what else can be had, as predicted; after --curve, apply --point N writes one", title_justify="left"
    )
    shown = [q for name, q in QUANTITIES.items() if any(name in point.taken for point in curve)]
    for column in ("point", *(q.name for q in shown), "divergence", "layers"):
        table.add_column(column, justify="left" if column == "layers" else "right")
    for point in curve:
        cells = (q.unit.show(point.taken[q.name]) for q in shown)
        table.add_row(str(point.number), *cells, f"{point.effect:.2g}", point.schemes)
    return table
