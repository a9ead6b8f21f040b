"""Ablation on one cost table: the fastest plan of solvers that see transitions and of solvers that do not.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.allocation_ablation [MODEL ...] [--csv ablation.csv] [--out tables.md]

Per model one cost table is measured as `onnxmpq.convert` does. From it come the fastest plans of: the exact solver
without transition costs (the per-layer MCKP; chain rules still hold), greedy (Chen et al. 2021), the exact solver
with transitions, and the same after the closed loop (measure, refit, solve again, five rounds at most; the fastest
plan measured is kept, profiled ones included). All plans, fp32 and onnxruntime's static int8 are then timed
interleaved in one process, one thread. "Bound" is the sum of every region's cheapest scheme without any transition;
it is not a proof, since a region can also gain from its neighbours. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.stages import Profiled, machine, models, profiled, show, table_of
from benchmarks.zoo import static_int8
from onnxmpq.allocate import Limits, Problem
from onnxmpq.allocate.solvers import SOLVERS
from onnxmpq.cost.measure import Effort
from onnxmpq.schemes import Scheme

EFFORT = Effort(seconds=6.0, runs=40, rounds=12)
ROUNDS = 5
METHODS = {"per-layer": ("milp", False), "greedy": ("greedy", False), "with transitions": ("milp", True)}
COLUMNS = (
    *("model", "fp32_ms", "static_int8_ms", "bound_ms"),
    *(f"{method} {what}_ms" for method in METHODS for what in ("predicted", "measured")),
    "closed_loop_ms",
)
Plan = Mapping[str, Scheme]


def fastest(problem: Problem, method: str) -> Plan:
    """The plan that a method takes for the fastest."""
    solver, transitions = METHODS[method]
    found = SOLVERS[solver](problem, "latency", Limits(), transitions=transitions)
    return found.assignment if found else {}


def bound_s(problem: Problem) -> float:
    """Σ over regions of the cheapest scheme, plus what no decision changes."""
    return problem.table.base_s + sum(min(o.latency_s for o in options) for options in problem.options.values())


def after_loop(ready: Profiled) -> Plan:
    """The fastest of all measured plans after measuring, refitting and solving again."""
    for _ in range(ROUNDS):
        plan = fastest(ready.problem(), "with transitions")
        if any(_names(p.assignment) == _names(plan) for p in ready.profiles):
            break
        ready = ready.after([ready.profiler.profile(plan, ready.bench.build(plan))])
    return min(ready.profiles, key=lambda p: p.wall_s).assignment


def _names(plan: Plan) -> dict[str, str]:
    return {region: scheme.name for region, scheme in plan.items()}


def row_of(ready: Profiled) -> list[float]:
    """Milliseconds as in COLUMNS, without the name."""
    problem = ready.problem()
    plans = [fastest(problem, method) for method in METHODS]
    with tempfile.TemporaryDirectory() as folder:
        static = static_int8(ready.entry, ready.samples, Path(folder) / "static.onnx")
        *measured, static_s = ready.measured_s([*plans, after_loop(ready)], EFFORT, [static])
    pairs = [s for plan, real in zip(plans, measured, strict=False) for s in (problem.latency_s(plan), real)]
    return [1e3 * s for s in (ready.profiler.reference_s, static_s, bound_s(problem), *pairs, measured[-1])]


def cells_of(name: str, row: list[float]) -> list[str]:
    fp32, static, bound, *pairs, looped = row
    both = [f"{p:.3f} / {m:.3f}" for p, m in zip(pairs[::2], pairs[1::2], strict=True)]
    best = min(looped, pairs[-1])
    return [name, f"{fp32:.3f}", f"{static:.3f}", *both, f"{looped:.3f}", f"{bound:.3f}", f"{best / bound:.2f}x"]


def summary(rows: list[list[float]]) -> str:
    """Geometric means over the models of how much faster than static int8, and than the better of fp32 and it."""
    table = np.array(rows)
    plans = {
        "per-layer": table[:, 4],
        "greedy": table[:, 6],
        "with transitions": table[:, 8],
        "closed loop": table[:, 9],
    }
    better = np.minimum(table[:, 0], table[:, 1])
    return table_of(
        ("fastest plan", "vs static int8", "vs better of fp32 and static int8", "worst model"),
        [
            (
                method,
                f"{np.exp(np.log(table[:, 1] / ms).mean()):.2f}x",
                f"{np.exp(np.log(better / ms).mean()):.2f}x",
                f"{(better / ms).min():.2f}x",
            )
            for method, ms in plans.items()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--csv", type=Path, help="write the figures there, model by model")
    parser.add_argument("--out", type=Path, help="write the tables there too")
    options = parser.parse_args()
    rows = {}
    for name in models(options.models):
        rows[name] = row_of(profiled(name))
        print(*cells_of(name, rows[name]), sep=" | ", flush=True)
        if options.csv:
            with options.csv.open("w", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *((n, *(f"{v:.5f}" for v in r)) for n, r in rows.items())])
    header = ("model", "fp32", "static int8", *(f"{m}, predicted / measured" for m in METHODS), "closed loop", "bound")
    table = table_of((*header, "distance"), [cells_of(n, r) for n, r in rows.items()])
    show(f"{machine()}; all in ms\n\n{table}\n\n{summary(list(rows.values()))}", options.out)


if __name__ == "__main__":
    main()
