"""Points of the trade-off curve in a plan, and a plan for one of them.

A point keeps its schemes, and the plan the weights that all points need, as they were rounded for the samples when the
curve was predicted. The chosen plan's own weights are rounded once more, in sequence; those of points are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxmpq.errors import PlanError
from onnxmpq.plan.curve import Point
from onnxmpq.plan.plan import Plan, PlannedPoint
from onnxmpq.schemes import FP32
from onnxmpq.weights import PackedWeight, pack
from onnxmpq.workbench import Workbench


def with_points(plan: Plan, curve: Sequence[Point], bench: Workbench) -> Plan:
    """The plan with the points of a curve. bench: the weights that its effects are those of."""
    points = tuple(
        PlannedPoint(p.number, {r: s.name for r, s in p.assignment.items()}, dict(p.predicted())) for p in curve
    )
    weights: dict[str, dict[str, PackedWeight]] = {}
    for point in curve:
        for region, scheme in point.assignment.items():
            layer = bench.model.region(region).layer
            if layer is None or scheme.weight is None:
                continue
            for place in layer.weights:
                row = weights.setdefault(place.key, {})
                weight = bench.weights[place.key, scheme.weight.name]
                if scheme.weight.name not in row:
                    row[scheme.weight.name] = pack(weight, bench.model.store.spill)
    return replace(plan, points=points, point_weights=weights)


def at_point(plan: Plan, number: int) -> Plan:
    """The plan of a point: schemes and weights are the point's, nothing is measured. Raises PlanError."""
    if not plan.points:
        raise PlanError(f"--point {number}: the plan has no trade-off curve; convert with --curve to get one")
    point = next((p for p in plan.points if p.number == number), None)
    if point is None:
        raise PlanError(f"--point {number}: the plan's curve has points 1 to {len(plan.points)}")
    rows = {r.node: r for r in plan.layers}
    if missing := [node for node in point.schemes if node not in rows]:
        raise PlanError(f"--point {number}: node {missing[0]!r} has no entry in layers; put it back")
    layers = tuple(replace(r, scheme=point.schemes.get(r.node, FP32)) for r in plan.layers)
    moved = replace(plan, layers=layers, weights={}, biases={})
    return replace(moved, edits=(f"point {number} of the trade-off curve",))
