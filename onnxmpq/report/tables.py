"""Data behind the decisions of a conversion, as rows: sensitivities, the menu with its reasons, costs, the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from onnxmpq.allocate import LATENCY, QUANTITIES, SIZE, Problem, quantized_roots
from onnxmpq.cost import CostTable, edges_of
from onnxmpq.files import Rows
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.plan import Point
from onnxmpq.schemes import FP32

LeftOut = Mapping[tuple[str, str], str]
"""(region, scheme) -> why the scheme is none of the region's, in words."""
SENSITIVITY = ("region", "op_type", "scheme", "chosen", "effect", "effect_alone", "latency_ms", "size_bytes", "reason")
COSTS = ("what", "region", "scheme", "tensor", "reader", "ms")
CURVE = ("point", *(q.figure for q in QUANTITIES.values()), "effect", "schemes")


def left_out(stages: Sequence[tuple[str, Menu]]) -> dict[tuple[str, str], str]:
    """Schemes that a menu has lost on its way, with the reason.

    stages: the menus, and why each is shorter than the one before. A reason that the menu itself has for a region is
    more exact.
    """
    found: dict[tuple[str, str], str] = {}
    for (_, before), (why, after) in pairwise(stages):
        for region, row in before.items():
            kept = {s.name for s in after[region]}
            reason = after.reasons.get(region, why) if region not in before.reasons else why
            found.update(((region, s.name), reason) for s in row if s.name not in kept)
    return found


def sensitivity_rows(problem: Problem, dropped: LeftOut, chosen: Mapping[str, str], *, timed: bool = True) -> Rows:
    """A row for every region and scheme that the target lists, in the order of the graph.

    effect: divergence (nats, or relative squared error) caused by the scheme's own changes, of weights above all;
    effect_alone: the same with the activation tensors that the region quantizes where nothing else does.
    latency_ms, size_bytes: of the region, before transitions; None where not timed, or without weights. reason: why a
    scheme is not offered. chosen: by region.
    """
    found = Rows(columns=SENSITIVITY)
    for region in problem.model.regions:
        for option in problem.options[region.name]:
            scheme = option.scheme
            roots = () if scheme.is_fp32 else quantized_roots(problem.model, {region.name: scheme})
            alone = option.effect + sum(problem.activations.get(t, 0.0) for t in roots)
            figures = (
                option.effect,
                alone,
                option.cost(LATENCY) * 1e3 if timed else None,
                round(option.cost(SIZE)) if region.layer is not None else None,
            )
            is_chosen = chosen.get(region.name, FP32) == scheme.name if chosen else None
            row = (region.name, region.op_type, scheme.name, is_chosen, *figures, "")
            found.append(dict(zip(SENSITIVITY, row, strict=True)))
        for (name, scheme_name), why in dropped.items():
            if name == region.name:
                known = {"region": name, "op_type": region.op_type, "scheme": scheme_name, "reason": why}
                found.append(dict.fromkeys(SENSITIVITY) | known | {"chosen": False if chosen else None})
    return found


def cost_rows(model: Model, table: CostTable) -> Rows:
    """The cost table, in milliseconds: what no decision changes, each region in each scheme or kernel, and each change
    of format or layout between two regions (reader: None for an output of the model)."""
    found = Rows(columns=COSTS)

    def add(what: str, ms: float, region: str | None, scheme: str, tensor: str, reader: str | None) -> None:
        found.append(dict(zip(COSTS, (what, region, scheme, tensor, reader, ms), strict=True)))

    add("base", table.base_s * 1e3, None, "", "", None)
    for region, row in table.node_s.items():
        for scheme, seconds in row.items():
            add("region", seconds * 1e3, region, scheme, "", None)
    for tensor, shared in table.shared.items():
        for what in ("quantize", "dequantize"):
            if seconds := getattr(shared, f"{what}_s"):
                add(f"{what}, once", seconds * 1e3, None, "", tensor, None)
    for edge in edges_of(model):
        own = table.edges.get(edge.key)
        for what in ("quantize", "dequantize", "into_layout", "out_of_layout"):
            if own is not None and (seconds := getattr(own, f"{what}_s")):
                add(what.replace("_", " "), seconds * 1e3, edge.producer, "", edge.tensor, edge.consumer)
    return found


def curve_rows(curve: Sequence[Point]) -> Rows:
    """A row for every point of the trade-off curve, cheapest first."""
    return Rows((point.figures() for point in curve), CURVE)
