"""The account of a plan: what each region, change of format and uniform scheme takes, as rows for reports.

All figures are predictions: of the cost table, of stored sizes, and of single effects. A plan's latency is that of its
regions and transitions and of what no decision changes; its effect is the sum over its regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxmpq.allocate import SIZE, Problem, Stored, pose, rounded_by
from onnxmpq.cost import Assignment, legalize
from onnxmpq.menu import Menu
from onnxmpq.model import Region
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import FP32, SCHEMES, Scheme

Change = Literal["quantize", "dequantize", "layout"]
Known = Sequence[tuple[Assignment, float]]
"""Plans whose latency was measured, in seconds (`PlanCosts.known`)."""
Weights = Mapping[tuple[str, str], QuantizedWeight]
"""By region, or a further weight's key, and weight format."""
STATIC_INT8 = "static int8"


@dataclass(frozen=True)
class RegionRow:
    """One region, in the order of execution.

    name: its head node. pattern: operators that it holds, such as "Conv+Relu". latencies: in float32 and in the plan,
    without changes of format. effect: divergence caused by its weights and kernel alone; effect_activations: by the
    activation tensors that it is the first to quantize. bytes: of its weights, None where it has none; a weight that
    several regions have in common is in the file once, and counts in the first of them, so that rows add up.
    shared_with: the others that read it.
    """

    name: str
    op_type: str
    pattern: str
    scheme: str
    latency_ms_fp32: float
    latency_ms: float
    effect: float
    effect_activations: float
    bytes_fp32: int | None
    bytes: int | None
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class TransitionRow:
    """A tensor that changes its format, or the memory layout of a feature map, on its way from one region to another.

    producer, consumer: regions, None for the graph's inputs and outputs.
    """

    tensor: str
    producer: str | None
    consumer: str | None
    change: Change
    latency_ms: float


@dataclass(frozen=True)
class UniformRow:
    """One scheme wherever it is offered. measured: True where the latency was timed. effect, size_bytes: None where
    they are not known for each of its regions. regions: number that is not left in float32."""

    name: str
    latency_ms: float
    measured: bool
    size_bytes: int | None
    effect: float | None
    regions: int


def account_regions(problem: Problem, plan: Assignment) -> tuple[RegionRow, ...]:
    """A row for every region. plan: schemes by region, float32 left out."""
    of_activations = effects_of_activations(problem, plan)
    before, after = problem.stored({}), problem.stored(plan)
    return tuple(
        _row(problem, r, plan.get(r.name), of_activations[r.name], (before[r.name], after[r.name]))
        for r in problem.model.regions
    )


def effects_of_activations(problem: Problem, plan: Assignment) -> dict[str, float]:
    """Region -> effect of the tensors that it is the first to quantize."""
    found, seen = dict[str, float](), set[str]()
    for region in problem.model.regions:
        rounded = dict.fromkeys(rounded_by(problem.model, region, plan.get(region.name)))
        found[region.name] = sum((problem.activations.get(t, 0.0) for t in rounded if t not in seen), 0.0)
        seen.update(rounded)
    return found


def _row(
    problem: Problem, region: Region, scheme: Scheme | None, of_activations: float, stored: tuple[Stored, Stored]
) -> RegionRow:
    """stored: before and after."""
    option, table = problem.option(region.name, scheme), problem.table
    layer, (before, after) = region.layer, stored
    return RegionRow(
        region.name,
        region.op_type,
        region.pattern or region.op_type,
        scheme.name if scheme else FP32,
        table.scheme_s(region.name, None) * 1e3,
        option.latency_s * 1e3,
        option.effect,
        of_activations,
        None if layer is None else round(before.bytes),
        None if layer is None else round(after.bytes),
        after.shared_with,
    )


def account_transitions(problem: Problem, plan: Assignment) -> tuple[TransitionRow, ...]:
    """Changes of format first, then of layout, each in graph order."""
    rows = []
    for edge, cost_s in problem.table.transitions_s(problem.model, plan):
        reader = plan.get(edge.consumer) if edge.consumer else None
        change: Change = "quantize" if reader is not None and reader.reads.quantized else "dequantize"
        rows.append(TransitionRow(edge.tensor, edge.producer, edge.consumer, change, cost_s * 1e3))
    for edge, cost_s in problem.table.reorders_s(problem.model, plan):
        rows.append(TransitionRow(edge.tensor, edge.producer, edge.consumer, "layout", cost_s * 1e3))
    return tuple(rows)


def account_uniform(problem: Problem, int8: Assignment, known: Known, weights: Weights) -> tuple[UniformRow, ...]:
    """Float32, the plan that other tools make, and every scheme that weights may have wherever it is offered.

    int8: the plan that other tools make, empty where there is none; some of its schemes may not be options any more.
    """
    found = {FP32: dict[str, Scheme]()}
    if int8:
        found[STATIC_INT8] = dict(int8)
    for name in dict.fromkeys(o.scheme.name for r in problem.model.layers for o in problem.options[r.name]):
        plan = _uniform(problem, name)
        if plan and plan not in found.values():
            found[name] = plan
    measured = {_kernels(plan): seconds for plan, seconds in known}
    return tuple(_point(problem, name, plan, measured, weights) for name, plan in found.items())


def _uniform(problem: Problem, name: str) -> dict[str, Scheme]:
    """The scheme in every layer that offers it. One that reads quantized activations stands among other regions that
    hand them on; alone, its cost would be that of the transitions around it."""
    menu = {region: [o.scheme for o in options] for region, options in problem.options.items()}
    wanted = {r.name: s for r in problem.model.layers for s in menu[r.name] if s.name == name}
    if any(s.reads.quantized for s in wanted.values()):
        others = ((r, s) for r, row in menu.items() if problem.regions[r].layer is None for s in row[::-1])
        wanted = {r: s for r, s in others if s.reads.quantized} | wanted
    chosen = {r: s for r, s in wanted.items() if not s.is_fp32}
    legal = legalize(problem.model, problem.table.rules, chosen, menu)
    return legal if any(s.name == name for s in legal.values()) else {}


def _point(
    problem: Problem, name: str, plan: dict[str, Scheme], measured: Mapping[_Kernels, float], weights: Weights
) -> UniformRow:
    held, timed_s = problem.holds(plan), measured.get(_kernels(plan))
    latency_s = problem.table.predict_s(problem.model, plan) if timed_s is None else timed_s
    return UniformRow(
        name,
        latency_s * 1e3,
        timed_s is not None,
        _size_bytes(problem, plan, weights),
        problem.effect(plan) if held else None,
        len(plan),
    )


def _size_bytes(problem: Problem, plan: Assignment, weights: Weights) -> int | None:
    """None where a weight was not rounded in its format."""
    if not problem.holds(plan):
        needed = [(w, s) for r, s in plan.items() if (layer := problem.regions[r].layer) for w in layer.weights]
        if not all(s.weight is None or (w.key, s.weight.name) in weights for w, s in needed):
            return None
        fp32 = SCHEMES[FP32]
        menu = {r: (fp32, *([plan[r]] if r in plan else [])) for r in problem.options}
        problem = pose(problem.model, Menu(menu), problem.table, None, weights)
        if not problem.holds(plan):
            return None
    return round(problem.total(SIZE, plan))


_Kernels = frozenset[tuple[str, str]]


def _kernels(plan: Assignment) -> _Kernels:
    """The kernels of a plan, which decide on its latency: schemes that one kernel runs take the same time."""
    return frozenset(_pairs(plan))


def _pairs(plan: Assignment) -> Iterator[tuple[str, str]]:
    for region, scheme in plan.items():
        if scheme.kernel != FP32:
            yield region, scheme.kernel
