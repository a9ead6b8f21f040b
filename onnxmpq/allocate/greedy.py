"""Greedy allocation by effect-per-cost ratio (Chen, Wang, Cheng, ICCV 2021, arXiv 2110.06554, section 3.3).

Start with every region's option of least goal; while a limit is broken, take the change that loses least of the goal
per share of the excess that it removes; then exchange: change single regions, and pairs of regions, for a better goal
within the limits. Transitions are ignored in the choice (`separable`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxmpq.allocate.problem import Goal, Limits, Problem, Solution
from onnxmpq.allocate.separable import Picked, Separable, Vector, solve_separable

_EXCHANGES = 200
_PAIRED = 64  # changes of best goal that are tried with a partner
_LEAST = 1e-12  # relative change that counts


def solve(problem: Problem, goal: Goal, limits: Limits, *, transitions: bool = True) -> Solution | None:
    """A plan of low `goal` within the limits; None where greedy finds none, which proves nothing."""
    return solve_separable(problem, goal, limits, choose, transitions)


def choose(view: Separable, goal: int, limits: Vector) -> Picked | None:
    """Repair what breaks the limits, then exchange."""
    state = _State(view, goal, limits)
    while state.excess > 0.0:
        if not state.repair():
            return None
    for _ in range(_EXCHANGES):
        if not (state.improve() or state.exchange()):
            break
    return state.picked


class _State:
    """A choice, its sums, and how far they are beyond the limits (in shares of them)."""

    def __init__(self, view: Separable, goal: int, limits: Vector) -> None:
        self.goal, self.limits = goal, limits
        self.costs = np.concatenate(view.costs)
        self.region = np.repeat(np.arange(len(view.costs)), [len(c) for c in view.costs])
        self.option = np.concatenate([np.arange(len(c)) for c in view.costs])
        self.first = np.concatenate([[0], np.cumsum([len(c) for c in view.costs])[:-1]]).astype(np.int64)
        self.limited = np.isfinite(limits)
        reach = np.maximum(np.abs(self.costs).max(axis=0), np.finfo(float).tiny)
        # A limit of nothing is held against what things cost, so that the share by which it is missed stays a number.
        self.scale = np.maximum(np.abs(limits[self.limited]), _LEAST * reach[self.limited])
        order = self.costs[:, goal] / reach[goal] + 1e-9 * (self.costs / reach).sum(axis=1)  # ties: the least of all
        self.reach = float(reach[goal])
        self.picked = np.array([int(np.argmin(order[self.region == r])) for r in range(len(view.costs))])
        self.sums = self.costs[self.first + self.picked].sum(axis=0)

    @property
    def excess(self) -> float:
        return float(self._excess(self.sums))

    def _excess(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum over the limited goals of the share by which `sums` [..., goals] is too much; 0 within tolerance."""
        over = (sums[..., self.limited] - self.limits[self.limited]) / self.scale
        return np.asarray(np.where(over > _LEAST, over, 0.0).sum(axis=-1))

    def _deltas(self) -> NDArray[np.float64]:
        return np.asarray(self.costs - self.costs[self.first + self.picked][self.region])

    def _change(self, number: int) -> None:
        self.picked[self.region[number]] = self.option[number]
        self.sums = self.costs[self.first + self.picked].sum(axis=0)

    def repair(self) -> bool:
        """The change of least loss per excess removed; False where nothing removes any."""
        delta = self._deltas()
        removed = self.excess - self._excess(self.sums + delta)
        loss = np.maximum(delta[:, self.goal] / self.reach, 0.0) + _LEAST
        ratio = np.where(removed > _LEAST, removed / loss, -1.0)
        best = int(np.argmax(ratio))
        if ratio[best] <= 0.0:
            return False
        self._change(best)
        return True

    def improve(self) -> bool:
        """The single change of best goal within the limits; False where there is none."""
        delta = self._deltas()
        gain = np.where(self._excess(self.sums + delta) > 0.0, 0.0, -delta[:, self.goal])
        best = int(np.argmax(gain))
        if gain[best] <= self._least():
            return False
        self._change(best)
        return True

    def exchange(self) -> bool:
        """The pair of changes of best goal within the limits: one gains, the other makes room for it."""
        delta = self._deltas()
        best, pair = self._least(), None
        for one in np.argsort(delta[:, self.goal])[:_PAIRED]:
            if delta[one, self.goal] >= 0.0:
                break
            both = delta + delta[one]
            barred = (self.region == self.region[one]) | (self._excess(self.sums + both) > 0.0)
            gain = np.where(barred, 0.0, -both[:, self.goal])
            other = int(np.argmax(gain))
            if gain[other] > best:
                best, pair = float(gain[other]), (int(one), other)
        if pair is None:
            return False
        for number in pair:
            self._change(number)
        return True

    def _least(self) -> float:
        return _LEAST * max(abs(float(self.sums[self.goal])), np.finfo(float).tiny)
