"""The allocation problem: options per region, effects per activation tensor, transition costs, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onnxmpq.allocate.quantities import EFFECT, LATENCY, QUANTITIES, SIZE, goals
from onnxmpq.cost import CostTable, Edge, edges_of
from onnxmpq.model import Model, Region
from onnxmpq.schemes import Scheme, writes

DEFAULT = "milp"
"""Solver."""
Goal = str
"""One of `quantities.goals()`."""


@dataclass(frozen=True)
class Option:
    """One scheme of one region. costs: by quantity, 0 where it is left out. effect: divergence caused by it alone,
    without quantized activation tensors. common: the part of its size that options of other regions may store as
    well, by what is stored; it counts once."""

    scheme: Scheme
    costs: Mapping[str, float]
    effect: float = 0.0
    common: Mapping[str, float] = field(default_factory=dict)

    def cost(self, goal: Goal) -> float:
        """Of a quantity, or the effect."""
        return self.effect if goal == EFFECT else self.costs.get(goal, 0.0)

    @property
    def latency_s(self) -> float:
        return self.cost(LATENCY)

    @property
    def size_bytes(self) -> float:
        return self.cost(SIZE)


@dataclass(frozen=True)
class Stored:
    """bytes: of a region, less what a region before it stores already. shared_with: regions that read some of the same
    stored weights."""

    bytes: float
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True, init=False)
class Limits:
    """Upper limits by goal, in its unit: `Limits(latency=5e-3, effect=None)`; no limit where it is None or left out.

    Raises TypeError for a name that is none of `goals()`.
    """

    upper: Mapping[Goal, float]

    def __init__(self, **upper: float | None) -> None:
        if unknown := upper.keys() - set(goals()):
            raise TypeError(f"no such limit: {', '.join(sorted(unknown))}; the limits are {', '.join(goals())}")
        given = {goal: upper.get(goal) for goal in (*QUANTITIES, EFFECT)}
        object.__setattr__(self, "upper", {goal: limit for goal, limit in given.items() if limit is not None})

    def but(self, **upper: float | None) -> Limits:
        """The same limits with others of these goals."""
        return Limits(**{**self.upper, **upper})


@dataclass(frozen=True)
class Problem:
    """options: region -> its options, fp32 first where it is offered. activations: root tensor -> divergence caused
    by quantizing it. table: for transitions. fixed: by quantity, of everything that no decision changes, beside what
    the table has of it. solver: a name of `allocate.SOLVERS`. barred: fp32 of regions whose scheme the user set
    (`--set`), which no plan has but the original.
    """

    model: Model
    options: Mapping[str, tuple[Option, ...]]
    activations: Mapping[str, float]
    table: CostTable
    fixed: Mapping[str, float] = field(default_factory=dict)
    solver: str = DEFAULT
    barred: Mapping[str, Option] = field(default_factory=dict)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        return edges_of(self.model)

    @cached_property
    def regions(self) -> dict[str, Region]:
        return {r.name: r for r in self.model.regions}

    def option(self, region: str, scheme: Scheme | None) -> Option:
        wanted = scheme.name if scheme else "fp32"
        for option in self.options[region]:
            if option.scheme.name == wanted:
                return option
        if scheme is None and region in self.barred:
            return self.barred[region]
        raise KeyError(f"{region}: {wanted}")

    def holds(self, assignment: Mapping[str, Scheme]) -> bool:
        """True if every scheme of an assignment is among the options, and it has all that must not stay fp32."""
        return self.barred.keys() <= assignment.keys() and all(
            any(o.scheme.name == scheme.name for o in self.options[region]) for region, scheme in assignment.items()
        )

    def base(self, goal: Goal) -> float:
        """The part of a plan's total that no decision changes."""
        return 0.0 if goal == EFFECT else self.fixed.get(goal, 0.0) + QUANTITIES[goal].base(self.table)

    def total(self, goal: Goal, assignment: Mapping[str, Scheme]) -> float:
        """Prediction of a quantity for a plan; of the effect, see `effect`."""
        if goal == EFFECT:
            return self.effect(assignment)
        if (total := QUANTITIES[goal].total) is not None:
            return total(self.table, self.model, assignment)
        chosen = [self.option(r, assignment.get(r)) for r in self.options]
        return self.base(goal) + sum(o.cost(goal) for o in chosen) - (_twice(chosen) if goal == SIZE else 0.0)

    def effect(self, assignment: Mapping[str, Scheme]) -> float:
        """Separable prediction: sum of single effects of weights and of quantized activation tensors."""
        total = sum(self.option(r, assignment.get(r)).effect for r in self.options)
        return total + sum(self.activations.get(t, 0.0) for t in quantized_roots(self.model, assignment))

    def stored(self, assignment: Mapping[str, Scheme]) -> dict[str, Stored]:
        """Bytes of each region, which with `base` add up to the size: what several have in common is in the first."""
        chosen = {r: self.option(r, assignment.get(r)) for r in self.options}
        owners: dict[str, list[str]] = {}
        for region, option in chosen.items():
            for what in option.common:
                owners.setdefault(what, []).append(region)
        return {region: _stored(region, option, owners) for region, option in chosen.items()}

    def size_bytes(self, assignment: Mapping[str, Scheme]) -> float:
        return self.total(SIZE, assignment)

    def latency_s(self, assignment: Mapping[str, Scheme]) -> float:
        return self.total(LATENCY, assignment)


def _twice(chosen: Sequence[Option]) -> float:
    """Bytes that options count although others store them already."""
    seen, twice = set[str](), 0.0
    for stored, size in (item for o in chosen for item in o.common.items()):
        twice += size if stored in seen else 0.0
        seen.add(stored)
    return twice


def _stored(region: str, option: Option, owners: Mapping[str, Sequence[str]]) -> Stored:
    elsewhere = sum(size for what, size in option.common.items() if owners[what][0] != region)
    others = dict.fromkeys(r for what in option.common for r in owners[what] if r != region)
    return Stored(option.size_bytes - elsewhere, tuple(others))


@dataclass(frozen=True)
class Solution:
    """assignment: region -> scheme, fp32 regions left out. bound: proven lower bound of the goal. gap: relative."""

    assignment: dict[str, Scheme]
    value: float
    bound: float
    gap: float
    proven: bool


def quantized_roots(model: Model, assignment: Mapping[str, Scheme]) -> tuple[str, ...]:
    """Root tensors whose values are rounded to 8 bits under an assignment, in graph order: sums over them follow it."""
    found: dict[str, None] = {}
    for region in model.regions:
        found |= dict.fromkeys(rounded_by(model, region, assignment.get(region.name)))
    return tuple(found)


def rounded_by(model: Model, region: Region, scheme: Scheme | None) -> list[str]:
    """Root tensors that one region rounds to 8 bits in a scheme: those that it reads, then those that it writes."""
    if scheme is None:
        return []
    roots = model.roots
    read = region.inputs if scheme.reads.quantized else ()
    written = region.outputs if writes(scheme, region.op_type).quantized else ()
    return [roots.get(t, t) for t in (*read, *written)]
