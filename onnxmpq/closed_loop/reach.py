"""Errors for budgets that cannot be met, with what can be reached."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxmpq.allocate import LATENCY, QUANTITIES, SIZE
from onnxmpq.closed_loop.loop import Loop
from onnxmpq.closed_loop.types import Round


def out_of_reach(loop: Loop) -> str:
    """The limits that no plan holds, each with the plan that comes nearest, and the budgets that one does hold."""
    ran = [r for r in loop.rounds if math.isfinite(r.measured_s)]
    names = [name for name in QUANTITIES if name == LATENCY or name in loop.targets.limits]
    best = {name: min(ran, key=lambda r: r.taken[name]) for name in names}
    missed = [
        _missed(loop, name, limit, best[name])
        for name, limit in loop.targets.limits.items()
        if best[name].taken[name] > limit
    ]
    if not missed and LATENCY not in loop.targets.limits:
        return _slower(loop, ran, names)
    if not missed:
        plans = ", the ".join(
            f"{QUANTITIES[name].best}{' plan takes' if name == names[0] else ''} {_figures(best[name], names)}"
            for name in names
        )
        missed = [f"the budgets cannot be met together, though each alone can: the {plans}"]
    return (
        f"{'; '.join(missed)}. {spell(loop, min(ran, key=loop.shortfall))} can be met; --best-effort writes that plan"
    )


def _slower(loop: Loop, ran: Sequence[Round], names: Sequence[str]) -> str:
    """Limits that plans hold, but only plans that are slower than the original."""
    asked = " ".join(f"--{name} {text}" for name, text in loop.budgets.spelled().items())
    best = min((r for r in ran if loop.meets(r)), key=lambda r: r.measured_s, default=min(ran, key=loop.shortfall))
    as_fast = [r for r in ran if loop.fits_in_time(r)]
    rest = (
        f"{spell(loop, min(as_fast, key=loop.shortfall))} can be met by one that is" if as_fast else "no plan here is"
    )
    return (
        f"no plan within {asked} is as fast as the original ({QUANTITIES[LATENCY].unit.show(loop.original_s)}): the "
        f"fastest of them takes {_figures(best, names)}. {rest}; --best-effort writes the slower one"
    )


def _missed(loop: Loop, name: str, limit: float, turn: Round) -> str:
    """A limit that even the best plan in it does not hold."""
    quantity = QUANTITIES[name]
    show = quantity.unit.show
    verb, remark = "takes", ", modelled" if quantity.modelled else ""
    if name == LATENCY:
        verb = "measures" if loop.costs.measured else "is predicted at"
    costs = {r: loop.problem.option(r, turn.assignment.get(r)).cost(name) for r in loop.problem.options}
    most = [item for item in sorted(costs.items(), key=lambda item: -item[1])[:3] if item[1] > 0]
    kept = loop.problem.model.already_quantized if name == SIZE else ()
    stay = f"; {len(kept)} nodes are already quantized and stay as they are" if kept else ""
    share = sum(cost for _, cost in most) / max(sum(costs.values()), 1e-30)
    where = ("; most of it is in " if share > 0.5 else "; largest in it: ") if most else ""
    holders = ", ".join(f"{region} {quantity.part.show(cost)}" for region, cost in most)
    return (
        f"{name} {show(limit, '.3g')} cannot be met: the {quantity.best} plan {verb} {show(turn.taken[name])}{remark} "
        f"(fp32 {show(loop.original(name))}){where}{holders}{stay}"
    )


def _figures(turn: Round, names: Sequence[str]) -> str:
    """Totals of a plan, as "1.5 ms at 3 MB"."""
    first, *others = (QUANTITIES[name].unit.show(turn.taken[name]) for name in names)
    return " at ".join([first, *([" and ".join(others)] if others else [])])


def spell(loop: Loop, turn: Round) -> str:
    """The budgets that were asked for, as options of the command line, raised to what a round takes where that is
    more."""
    return " ".join(option(loop, name, turn) for name in loop.budgets.limits)


def option(loop: Loop, name: str, turn: Round) -> str:
    """The option of a quantity, such as --latency, with a limit that a round holds, never below the one that was asked
    for, and with room for the next time. In per cent where the limit was."""
    quantity, original, limit = QUANTITIES[name], loop.original(name), loop.budgets.limits.get(name)
    repeatable = name == LATENCY and not loop.costs.measured
    taken = turn.taken[name] * (1.0 if repeatable else 1.0 + quantity.room)
    unit, suffix = quantity.unit.value, quantity.unit.symbol
    if limit is not None and limit.relative:
        unit, suffix = 0.01 * original, "%"
    if turn.taken[name] < original:  # a limit above it is held by the original, which is no answer
        taken = min(taken, 0.5 * (turn.taken[name] + original))
    least = max(taken, limit.of(original) if limit else 0.0) / unit
    return f"--{name} {_rounded_up(least)}{suffix}"


def _rounded_up(value: float) -> str:
    """Three digits, not below the value."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step - 1e-9) * step:.3g}"
