"""The trade-off curve: plans of least loss at many limits, from one cost table and one table of effects.

Nothing is built or measured for it; `convert` with a point's latency or size as the budget makes the model.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from rich.table import Table

from onnxmpq.allocate import Limits, Problem, solve
from onnxmpq.schemes import FP32, Scheme

POINTS = 12
Axis = Literal["latency", "size"]


@dataclass(frozen=True)
class Point:
    """One plan, as predicted. effect: divergence from fp32 (nats, or error over variance), summed over decisions.

    energy_mj: 0 where the target has no energies. schemes: layers per scheme, as "9 int8, 1 fp32".
    """

    latency_ms: float
    size_bytes: int
    effect: float
    energy_mj: float
    schemes: str


def trade_off(problem: Problem, axis: Axis, points: int = POINTS) -> tuple[Point, ...]:
    """Plans of least effect from the least latency (or size) to that of fp32, cheapest first, none dominated."""
    cheapest = solve(problem, axis, Limits())
    if cheapest is None:
        return ()
    measure = problem.latency_s if axis == "latency" else problem.size_bytes
    least, most = measure(cheapest.assignment), measure({})
    found: list[Point] = []
    for limit in np.geomspace(least, max(most, least), points):
        allowed = float(limit) * (1.0 + 1e-9)
        limits = Limits(latency_s=allowed) if axis == "latency" else Limits(size_bytes=allowed)
        solution = solve(problem, "effect", limits)
        if solution is None:
            continue
        effect = problem.effect(solution.assignment)
        if not found or effect < found[-1].effect:
            found.append(_point(problem, solution.assignment, effect))
    return tuple(found)


def _point(problem: Problem, plan: Mapping[str, Scheme], effect: float) -> Point:
    names = Counter(plan[r.name].name if r.name in plan else FP32 for r in problem.model.layers)
    return Point(
        problem.latency_s(plan) * 1e3,
        round(problem.size_bytes(plan)),
        effect,
        problem.energy_j(plan) * 1e3,
        ", ".join(f"{count} {name}" for name, count in names.most_common()),
    )


def to_csv(curve: Sequence[Point]) -> str:
    """One line per point under a header of the fields' names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(Point.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in curve)
    return text.getvalue()


def draw(curve: Sequence[Point]) -> Table:
    """A row per point."""
    table = Table(title="what else can be had, as predicted", title_justify="left")
    energies = any(point.energy_mj for point in curve)
    for column in ("latency", "size", "divergence", *(["energy"] if energies else []), "layers"):
        table.add_column(column, justify="left" if column == "layers" else "right")
    for point in curve:
        cells = [f"{point.latency_ms:.3g} ms", f"{point.size_bytes / 1e6:.3f} MB", f"{point.effect:.2g}"]
        table.add_row(*cells, *([f"{point.energy_mj:.3g} mJ"] if energies else []), point.schemes)
    return table
