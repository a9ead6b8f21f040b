"""Solvers by name (`--solver`). `milp` is exact and knows transitions; the rest are baselines."""

from __future__ import annotations

from typing import Protocol

from onnxmpq.allocate import dynamic, greedy, milp
from onnxmpq.allocate.problem import Goal, Limits, Problem, Solution
from onnxmpq.errors import UsageError
from onnxmpq.files import nearest


class Solver(Protocol):
    """The plan of least `goal` within the limits, None where it finds none; transitions=False leaves those out."""

    def __call__(self, problem: Problem, goal: Goal, limits: Limits, *, transitions: bool = ...) -> Solution | None: ...


SOLVERS: dict[str, Solver] = {"milp": milp.solve, "greedy": greedy.solve, "dynamic": dynamic.solve}


def solve(problem: Problem, goal: Goal, limits: Limits) -> Solution | None:
    """The plan of least `goal` within the limits by the problem's solver; None where it finds none."""
    return SOLVERS[problem.solver](problem, goal, limits)


def require_solver(name: str) -> None:
    """Raises UsageError for a name that no solver has, with the nearest one."""
    if name not in SOLVERS:
        raise UsageError(f"--solver {name}: no such solver; {nearest(name, SOLVERS, 'the solvers are')}")
