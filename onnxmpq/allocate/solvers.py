"""Solvers by name. `milp` is exact, knows transitions, and is the one that conversions use; the rest are baselines."""

from __future__ import annotations

from typing import Protocol

from onnxmpq.allocate import dynamic, greedy, milp
from onnxmpq.allocate.problem import Goal, Limits, Problem, Solution


class Solver(Protocol):
    """The plan of least `goal` within the limits, None where it finds none; transitions=False leaves those out."""

    def __call__(self, problem: Problem, goal: Goal, limits: Limits, *, transitions: bool = ...) -> Solution | None: ...


SOLVERS: dict[str, Solver] = {"milp": milp.solve, "greedy": greedy.solve, "dynamic": dynamic.solve}
