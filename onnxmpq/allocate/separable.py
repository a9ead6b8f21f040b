"""Shared by the baseline solvers: the problem without its transitions, and the way back to a plan that runs.

Here every region's options have fixed costs (the Multiple-Choice Knapsack of Chen et al. 2021, eq. 6). The harm of
rounding an activation tensor goes in equal parts to the regions that can touch it in int8. What is chosen so is
legalised as the runtime would execute it and checked at its real costs; where it breaks a limit, the solver is asked
again with that limit lowered by the excess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.allocate.problem import Goal, Limits, Option, Problem, Solution
from onnxmpq.allocate.quantities import QUANTITIES, goals
from onnxmpq.cost import legalize
from onnxmpq.schemes import Scheme, writes

_TRIES = 20
_OVERSHOOT = 1.1  # of an excess, taken off the limit of the next try
_TOLERANCE = 1e-9  # relative
Vector = NDArray[np.float64]  # one entry per goal, in its unit


@dataclass(frozen=True)
class Separable:
    """costs: per region [options, goals]. base: what no decision changes, per goal."""

    regions: tuple[str, ...]
    options: tuple[tuple[Option, ...], ...]
    costs: tuple[NDArray[np.float64], ...]
    base: Vector


Picked = NDArray[np.int64]  # option number per region
Choose = Callable[[Separable, int, Vector], Picked | None]
"""(problem, position of the goal in `goals()`, limits net of `base` with inf for none) -> choice or None."""


def solve_separable(problem: Problem, goal: Goal, limits: Limits, choose: Choose, transitions: bool) -> Solution | None:
    """The plan of a solver that sees no transitions, legal and within the limits at its real costs; else None.

    transitions=False leaves them out of those costs too.
    """
    view, position = separable(problem), goals().index(goal)
    asked = _vector(limits)
    allowed = asked.copy()
    for _ in range(_TRIES):
        picked = choose(view, position, allowed - view.base)
        if picked is None:
            break
        assignment = _legal(problem, view, picked)
        values = costs_of(problem, view, assignment, transitions)
        if values is None:
            break
        excess = values - asked
        if _holds(values, asked):
            return _solution(assignment, values[position])
        allowed = np.where(excess > 0, allowed - _OVERSHOOT * excess, allowed)
    values = costs_of(problem, view, {}, transitions)
    return _solution({}, values[position]) if values is not None and _holds(values, asked) else None


def separable(problem: Problem) -> Separable:
    """The problem without transitions."""
    touched = _touched(problem)
    harm = _shared_harm(problem, touched)
    regions = tuple(name for name, options in problem.options.items() if options)
    rows = [
        np.array(
            [
                (o.effect + sum(harm[t] for t in touched[name, o.scheme.name]), *(o.cost(q) for q in QUANTITIES))
                for o in problem.options[name]
            ]
        )
        for name in regions
    ]
    base = np.array([problem.base(goal) for goal in goals()])
    return Separable(regions, tuple(problem.options[r] for r in regions), tuple(rows), base)


def costs_of(problem: Problem, view: Separable, assignment: Mapping[str, Scheme], transitions: bool) -> Vector | None:
    """Real costs of a plan per goal; None where it uses a scheme that is not among the options."""
    wanted = {r: s.name if (s := assignment.get(r)) else "fp32" for r in view.regions}
    chosen = [
        o
        for region, options in zip(view.regions, view.options, strict=True)
        for o in options
        if o.scheme.name == wanted[region]
    ]
    if len(chosen) < len(view.regions):
        return None
    if transitions:
        return np.array([problem.total(goal, assignment) for goal in goals()])
    plain = {name: problem.base(name) + sum(o.cost(name) for o in chosen) for name in QUANTITIES}
    return np.array([problem.effect(assignment), *plain.values()])


def _touched(problem: Problem) -> dict[tuple[str, str], tuple[str, ...]]:
    """(region, scheme) -> root tensors that the region reads or writes in int8, each once."""
    roots = problem.model.roots
    found = {}
    for name, options in problem.options.items():
        region = problem.regions[name]
        for scheme in (o.scheme for o in options):
            read = region.inputs if scheme.reads.quantized else ()
            written = region.outputs if writes(scheme, region.op_type).quantized else ()
            found[name, scheme.name] = tuple(dict.fromkeys(roots.get(t, t) for t in (*read, *written)))
    return found


def _shared_harm(problem: Problem, touched: Mapping[tuple[str, str], tuple[str, ...]]) -> dict[str, float]:
    """Root tensor -> the harm of rounding it, divided by the number of regions that can touch it in int8."""
    regions: dict[str, set[str]] = defaultdict(set)
    for (region, _), tensors in touched.items():
        for tensor in tensors:
            regions[tensor].add(region)
    return {tensor: problem.activations.get(tensor, 0.0) / len(names) for tensor, names in regions.items()}


def _legal(problem: Problem, view: Separable, picked: Picked) -> dict[str, Scheme]:
    schemes = {r: options[k].scheme for r, options, k in zip(view.regions, view.options, picked, strict=True)}
    menu = {region: tuple(o.scheme for o in options) for region, options in problem.options.items()}
    plan = {region: scheme for region, scheme in schemes.items() if not scheme.is_fp32}
    legal = legalize(problem.model, problem.table.rules, plan, menu)
    return {region: scheme for region, scheme in legal.items() if not scheme.is_fp32}


def _vector(limits: Limits) -> Vector:
    return np.array([limits.upper.get(goal, np.inf) for goal in goals()])


def _holds(values: Vector, limits: Vector) -> bool:
    return bool(np.all(values <= limits + _TOLERANCE * np.abs(np.where(np.isinf(limits), 0.0, limits))))


def _solution(assignment: dict[str, Scheme], value: float) -> Solution:
    """Nothing is proven: zero bounds every goal."""
    return Solution(assignment, float(value), 0.0, 1.0, False)
