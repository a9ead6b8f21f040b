"""Errors for budgets that cannot be met, with what can be reached."""

from __future__ import annotations

import math

from onnxmpq.allocate import Limit
from onnxmpq.closed_loop.loop import Loop
from onnxmpq.closed_loop.types import Round

LATENCY_ROOM = 0.05  # what two measurements of the same plan may differ by
SIZE_ROOM = 1.002  # of sizes, which the second rounding changes by a few bytes


def out_of_reach(loop: Loop) -> str:
    ran = [r for r in loop.rounds if math.isfinite(r.measured_s)]
    fastest = min(ran, key=lambda r: r.measured_s)
    smallest = min(ran, key=lambda r: r.size_bytes)
    parts = []
    verb = "measures" if loop.costs.measured else "is modelled at"
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
    return f"{'; '.join(parts)}. {spell(loop, min(ran, key=loop.shortfall))} can be met; --best-effort writes that plan"


def spell(loop: Loop, turn: Round) -> str:
    """The budgets that were asked for, as options of the command line, raised to what a round takes where that is
    more."""
    asked = {"latency": loop.budgets.latency, "size": loop.budgets.size, "energy": loop.budgets.energy}
    return " ".join(option(loop, name, turn) for name, limit in asked.items() if limit is not None)


def option(loop: Loop, name: str, turn: Round) -> str:
    """--latency, --size or --energy with a limit that a round holds, never below the one that was asked for; measured
    latencies have room for the next measurement. In per cent where the limit was."""
    room = 1.0 + (LATENCY_ROOM if loop.costs.measured else 0.0)
    original, taken, unit, suffix = {
        "latency": (loop.original_s, turn.measured_s * room, 1e-3, "ms"),
        "size": (float(loop.original_bytes), turn.size_bytes * SIZE_ROOM, 1e6, "MB"),
        "energy": (loop.problem.energy_j({}), turn.energy_j * SIZE_ROOM, 1e-3, "mJ"),
    }[name]
    limit: Limit | None = getattr(loop.budgets, name)
    if limit is not None and limit.relative:
        unit, suffix = 0.01 * original, "%"
    least = max(taken, limit.of(original) if limit else 0.0) / unit
    return f"--{name} {_rounded_up(least)}{suffix}"


def _rounded_up(value: float) -> str:
    """Three digits, not below the value."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step - 1e-9) * step:.3g}"


def _slowest(loop: Loop, turn: Round) -> list[tuple[str, float]]:
    costs = {r: loop.problem.option(r, turn.assignment.get(r)).latency_s for r in loop.problem.options}
    return sorted(costs.items(), key=lambda item: -item[1])[:3]


def _largest(loop: Loop, turn: Round) -> list[tuple[str, float]]:
    sizes = {r: loop.problem.option(r, turn.assignment.get(r)).size_bytes for r in loop.problem.options}
    return sorted(sizes.items(), key=lambda item: -item[1])[:3]
