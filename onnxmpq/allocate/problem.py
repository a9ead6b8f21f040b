"""The allocation problem: options per region, effects per activation tensor, transition costs, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from onnxmpq.cost import CostTable, Edge, edges_of
from onnxmpq.model import Model, Region
from onnxmpq.schemes import Scheme, writes

DEFAULT = "milp"
"""Solver."""
Goal = Literal["effect", "latency", "size", "energy"]


@dataclass(frozen=True)
class Option:
    """One scheme of one region. effect: divergence caused by it alone, without quantized activation tensors."""

    scheme: Scheme
    latency_s: float
    size_bytes: float
    effect: float = 0.0
    energy_j: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Upper limits; None for no limit."""

    latency_s: float | None = None
    size_bytes: float | None = None
    energy_j: float | None = None
    effect: float | None = None


@dataclass(frozen=True)
class Problem:
    """options: region -> its options, fp32 first where it is offered. activations: root tensor -> divergence caused
    by quantizing it. table: for transitions. base_size_bytes: of everything that no decision changes. solver: a name of
    `allocate.SOLVERS`.
    """

    model: Model
    options: Mapping[str, tuple[Option, ...]]
    activations: Mapping[str, float]
    table: CostTable
    base_size_bytes: float = 0.0
    solver: str = DEFAULT

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
        raise KeyError(f"{region}: {wanted}")

    def holds(self, assignment: Mapping[str, Scheme]) -> bool:
        """True if every scheme of an assignment is among the options."""
        return all(
            any(o.scheme.name == scheme.name for o in self.options[region]) for region, scheme in assignment.items()
        )

    def effect(self, assignment: Mapping[str, Scheme]) -> float:
        """Separable prediction: sum of single effects of weights and of quantized activation tensors."""
        total = sum(self.option(r, assignment.get(r)).effect for r in self.options)
        return total + sum(self.activations.get(t, 0.0) for t in quantized_roots(self.model, assignment))

    def size_bytes(self, assignment: Mapping[str, Scheme]) -> float:
        return self.base_size_bytes + sum(self.option(r, assignment.get(r)).size_bytes for r in self.options)

    def energy_j(self, assignment: Mapping[str, Scheme]) -> float:
        """Joules for one run; 0 where the table has no energies."""
        return self.table.predict_j(self.model, assignment) if self.table.node_j else 0.0

    def latency_s(self, assignment: Mapping[str, Scheme]) -> float:
        return self.table.predict_s(self.model, assignment)


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
    roots = model.roots
    found: dict[str, None] = {}
    for region in model.regions:
        scheme = assignment.get(region.name)
        if scheme is None:
            continue
        if scheme.reads.quantized:
            found |= {roots.get(t, t): None for t in region.inputs}
        if writes(scheme, region.op_type).quantized:
            found |= {roots.get(t, t): None for t in region.outputs}
    return tuple(found)
