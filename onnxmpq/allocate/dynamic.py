"""Allocation by dynamic programming over discretised limits (the classic algorithm for the Multiple-Choice Knapsack).

best[r, u] = min over the options of region r of (goal + best[r - 1, u - cost]), where u counts units of what is left
of each limit after every region's cheapest option. One limit is cut into 4096 units, several into a grid of up to 2^16
cells, so the choice is exact up to rounding. Transitions are ignored in the choice (`separable`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxmpq.allocate.problem import Goal, Limits, Problem, Solution
from onnxmpq.allocate.separable import Picked, Separable, Vector, solve_separable

_CELLS = 2**16  # of the grid
_MOST_UNITS = 4096  # of one limit
_TOLERANCE = 1e-9  # of a limit


def solve(problem: Problem, goal: Goal, limits: Limits, *, transitions: bool = True) -> Solution | None:
    """A plan of low `goal` within the limits; None where this finds none, which proves nothing."""
    return solve_separable(problem, goal, limits, choose, transitions)


def choose(view: Separable, goal: int, limits: Vector) -> Picked | None:
    """The best choice on the grid."""
    limited = np.flatnonzero(np.isfinite(limits))
    cheapest = np.array([costs[:, limited].min(axis=0) for costs in view.costs])
    left = limits[limited] - cheapest.sum(axis=0)
    if np.any(left < -_TOLERANCE * np.abs(limits[limited])):
        return None
    units = min(_MOST_UNITS, int(_CELLS ** (1.0 / max(len(limited), 1))))
    size = np.maximum(left, _TOLERANCE * np.abs(limits[limited]) + np.finfo(float).tiny) / units
    taken = [
        np.rint(np.minimum((costs[:, limited] - least) / size, 2.0 * units)).astype(np.int64)
        for costs, least in zip(view.costs, cheapest, strict=True)
    ]
    best = np.zeros((units + 1,) * len(limited))
    decisions = []
    for costs, steps in zip(view.costs, taken, strict=True):
        best, decision = _stage(best, costs[:, goal], steps)
        decisions.append(decision)
    return _walk_back(best, decisions, taken)


def _stage(
    best: NDArray[np.float64], goals: NDArray[np.float64], steps: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """One region more: the least goal for every amount at hand, and the option that gives it."""
    after = np.full_like(best, np.inf)
    decision = np.zeros(best.shape, dtype=np.uint8)
    for number, (value, step) in enumerate(zip(goals, steps, strict=True)):
        if np.any(step >= np.array(best.shape, dtype=np.int64)):
            continue
        to = tuple(slice(int(s), None) for s in step)
        of = tuple(slice(None, n - int(s)) for s, n in zip(step, best.shape, strict=True))
        candidate = best[of] + value
        better = candidate < after[to]
        after[to] = np.where(better, candidate, after[to])
        decision[to] = np.where(better, np.uint8(number), decision[to])
    return after, decision


def _walk_back(
    best: NDArray[np.float64], decisions: list[NDArray[np.uint8]], taken: list[NDArray[np.int64]]
) -> Picked | None:
    at = np.array(best.shape, dtype=np.int64) - 1
    if not np.isfinite(best[tuple(at)]):
        return None
    picked = np.zeros(len(decisions), dtype=np.int64)
    for number in range(len(decisions) - 1, -1, -1):
        picked[number] = decisions[number][tuple(at)]
        at = at - taken[number][picked[number]]
    return picked
