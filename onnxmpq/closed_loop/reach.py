"""What can be reached, said where a budget cannot be met."""

from __future__ import annotations

import math

from onnxmpq.closed_loop.loop import Loop
from onnxmpq.closed_loop.types import Round


def out_of_reach(loop: Loop) -> str:
    ran = [r for r in loop.rounds if math.isfinite(r.measured_s)]
    fastest = min(ran, key=lambda r: r.measured_s)
    smallest = min(ran, key=lambda r: r.size_bytes)
    parts = []
    verb = "measures" if loop.judge.measured else "is modelled at"
    if loop.targets.asked_for_latency and fastest.measured_s > loop.targets.latency_s:
        holders = ", ".join(f"{name} {s * 1e3:.3f} ms" for name, s in _slowest(loop, fastest))
        parts.append(
            f"latency {loop.targets.latency_s * 1e3:.3g} ms cannot be met: the fastest plan {verb} "
            f"{fastest.measured_s * 1e3:.3f} ms (fp32 {loop.original_s * 1e3:.3f} ms); most of it is in {holders}"
        )
    if loop.targets.size_bytes is not None and smallest.size_bytes > loop.targets.size_bytes:
        holders = ", ".join(f"{name} {b / 1e3:.1f} kB" for name, b in _largest(loop, smallest))
        parts.append(
            f"size {loop.targets.size_bytes / 1e6:.3g} MB cannot be met: the smallest plan takes "
            f"{smallest.size_bytes / 1e6:.3f} MB; most of it is in {holders}"
        )
    frugal = min(ran, key=lambda r: r.energy_j)
    if loop.targets.energy_j is not None and frugal.energy_j > loop.targets.energy_j:
        parts.append(
            f"energy {loop.targets.energy_j * 1e3:.3g} mJ cannot be met: the best plan takes "
            f"{frugal.energy_j * 1e3:.3g} mJ, modelled"
        )
    if not parts:
        parts.append(
            "the budgets cannot be met together, though each alone can: the fastest plan takes "
            f"{fastest.measured_s * 1e3:.3f} ms at {fastest.size_bytes / 1e6:.3f} MB, the smallest "
            f"{smallest.measured_s * 1e3:.3f} ms at {smallest.size_bytes / 1e6:.3f} MB"
        )
    return "; ".join(parts) + ". Raise the budget"


def _slowest(loop: Loop, turn: Round) -> list[tuple[str, float]]:
    costs = {r: loop.problem.option(r, turn.assignment.get(r)).latency_s for r in loop.problem.options}
    return sorted(costs.items(), key=lambda item: -item[1])[:3]


def _largest(loop: Loop, turn: Round) -> list[tuple[str, float]]:
    sizes = {r: loop.problem.option(r, turn.assignment.get(r)).size_bytes for r in loop.problem.options}
    return sorted(sizes.items(), key=lambda item: -item[1])[:3]
