"""Budgets of the user, with units, absolute or relative to the original model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxmpq.allocate.quantities import BYTES, LATENCY, QUANTITIES, SIZE
from onnxmpq.cost import CostTable
from onnxmpq.errors import AlreadyMetError, UsageError
from onnxmpq.model import Model

MEMORY = "memory"
"""A limit that is no row of `QUANTITIES`: nothing predicts it well enough to plan with (docs/latency)."""
FACTORS = ("x", "times")
_NUMBER_AND_UNIT = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Zµ%]+)\s*$")


@dataclass(frozen=True)
class Limit:
    """An upper limit: `value` in the quantity's unit, or a share of the original's where `relative`."""

    value: float
    relative: bool = False

    def of(self, original: float) -> float:
        return self.value * original if self.relative else self.value


@dataclass(frozen=True)
class Budgets:
    """All limits of one conversion, by quantity; `fastest` and `smallest` ask for the minimum instead of a limit."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    fastest: bool = False
    smallest: bool = False

    @property
    def empty(self) -> bool:
        return not (self.limits or self.fastest or self.smallest)

    @property
    def asked(self) -> tuple[str, ...]:
        """Quantities with a limit, or of which the minimum is asked for."""
        least = {LATENCY: self.fastest, SIZE: self.smallest}
        return tuple(name for name in QUANTITIES if name in self.limits or least.get(name))

    def spelled(self) -> dict[str, str]:
        """By quantity, as the command line has it."""
        found = {name: QUANTITIES[name].least for name in self.asked if name not in self.limits}
        for name, limit in self.limits.items():
            unit = QUANTITIES[name].unit
            value = f"{limit.value * 100:g}%" if limit.relative else f"{limit.value / unit.value:.6g}{unit.symbol}"
            found[name] = value
        return found


def parse_budgets(**given: str | None) -> Budgets:
    """Budgets from the command line's spelling, by quantity: `parse_budgets(latency="60%", size=None)`.

    Raises UsageError.
    """
    asked = {name: text for name in QUANTITIES if (text := given.get(name)) is not None}
    least = {name for name, text in asked.items() if text.strip().lower() == (QUANTITIES[name].least or None)}
    if len(least) > 1:
        both = " and ".join(f"--{name} {QUANTITIES[name].least}" for name in asked if name in least)
        raise UsageError(f"{both}: one plan cannot be both; give one of them a limit")
    limits = {
        name: _parse(f"--{name}", text, QUANTITIES[name].units, QUANTITIES[name].examples)
        for name, text in asked.items()
        if name not in least
    }
    return Budgets(limits, fastest=LATENCY in least, smallest=SIZE in least)


def require_unmet(
    budgets: Budgets, model: Model, latency_s: float, table: CostTable | None = None, *, latency_share: float = 1.0
) -> None:
    """Raises AlreadyMetError where the original is within every budget: there is nothing to convert for.

    latency_s: of the original. table: None where costs are not known yet. latency_share: of its limit that a latency
    must be below.
    """
    if budgets.fastest or budgets.smallest or budgets.empty:
        return
    found = []
    for name, limit in budgets.limits.items():
        quantity = QUANTITIES[name]
        taken = latency_s if name == LATENCY else quantity.original(model, table)
        share = latency_share if name == LATENCY else 1.0
        if taken is None or taken > limit.of(taken) * share:
            return
        limit_shown, taken_shown = (quantity.unit.show(value, ".4g") for value in (limit.of(taken), taken))
        found.append(f"--{name} {limit_shown}: it takes {taken_shown}")
    raise AlreadyMetError(
        f"the original is within the budget ({'; '.join(found)}); keep it, or ask for less: --latency fastest, or a "
        "size such as --size 30%"
    )


def parse_memory(text: str | None) -> Limit | None:
    """Limit of what a session takes, in bytes. Raises UsageError."""
    return None if text is None else _parse(f"--{MEMORY}", text, BYTES, "200MB, 60%")


def _parse(option: str, text: str, units: Mapping[str, float], examples: str) -> Limit:
    match = _NUMBER_AND_UNIT.match(text)
    if match is None:
        raise UsageError(f"{option} {text!r}: no number with a unit; write for example {examples}")
    number, unit = float(match[1]), match[2]
    if number <= 0:
        raise UsageError(f"{option} {text!r}: must be greater than zero; write for example {examples}")
    factor = 0.01 if unit == "%" else units.get(unit.lower())
    if factor is None and unit.lower() in FACTORS and number >= 1:
        share = f"{100 / number:.4g}%"
        raise UsageError(f"{option} {text!r}: budgets are a share of the original's; {number:g} times less is {share}")
    if factor is None:
        raise UsageError(f"{option} {text!r}: unknown unit {unit!r}; use one of {', '.join(units)} or %")
    if not math.isfinite(number * factor):
        raise UsageError(f"{option} {text!r}: must be a finite number; write for example {examples}")
    return Limit(number * factor, relative=unit == "%")
