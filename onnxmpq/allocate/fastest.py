"""The regions that the fastest plans quantize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxmpq.allocate.problem import Limits, Problem
from onnxmpq.allocate.solvers import solve
from onnxmpq.schemes import Scheme


def quantized_when_fastest(problem: Problem, timed: Iterable[tuple[Mapping[str, Scheme], float]]) -> frozenset[str]:
    """Regions that are quantized in the fastest plan by the cost table, or in the fastest of the `timed` plans.

    timed: plans with their latencies in seconds.
    """
    fastest = solve(problem, "latency", Limits())
    by_table = fastest.assignment if fastest else {}
    measured = min(timed, key=lambda pair: pair[1], default=({}, 0.0))[0]
    return frozenset(by_table) | frozenset(measured)
