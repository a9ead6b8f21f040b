"""Budgets of the user, with units, absolute or relative to the original model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from onnxmpq.errors import AlreadyMetError, UsageError

_LATENCY_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SIZE_UNITS = {
    **{"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
}
_ENERGY_UNITS = {"j": 1.0, "mj": 1e-3, "uj": 1e-6, "µj": 1e-6, "nj": 1e-9}
_QUANTITY = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Zµ%]+)\s*$")
FASTEST = "fastest"
SMALLEST = "smallest"


@dataclass(frozen=True)
class Limit:
    """An upper limit: `value` in seconds, bytes or joules, or a share of the original's where `relative`."""

    value: float
    relative: bool = False

    def of(self, original: float) -> float:
        return self.value * original if self.relative else self.value


@dataclass(frozen=True)
class Budgets:
    """All limits of one conversion; `fastest` and `smallest` ask for the minimum instead of a limit."""

    latency: Limit | None = None
    size: Limit | None = None
    energy: Limit | None = None
    fastest: bool = False
    smallest: bool = False

    @property
    def empty(self) -> bool:
        return not (self.latency or self.size or self.energy or self.fastest or self.smallest)


def parse_budgets(latency: str | None = None, size: str | None = None, energy: str | None = None) -> Budgets:
    """Budgets from the command line's spelling. Raises UsageError."""
    fastest = latency is not None and latency.strip().lower() == FASTEST
    smallest = size is not None and size.strip().lower() == SMALLEST
    if fastest and smallest:
        raise UsageError("--latency fastest and --size smallest: one plan cannot be both; give one of them a limit")
    return Budgets(
        None if latency is None or fastest else _parse("--latency", latency, _LATENCY_UNITS, "5ms, 60%, fastest"),
        None if size is None or smallest else _parse("--size", size, _SIZE_UNITS, "3MB, 25%, smallest"),
        None if energy is None else _parse("--energy", energy, _ENERGY_UNITS, "3mJ, 50%"),
        fastest,
        smallest,
    )


def require_unmet(
    budgets: Budgets, size_bytes: int, latency_s: float, energy_j: float | None = None, *, latency_share: float = 1.0
) -> None:
    """Raises AlreadyMetError where the original is within every budget: there is nothing to convert for.

    energy_j: None where it is not known yet. latency_share: of its limit that a latency must be below.
    """
    if budgets.fastest or budgets.smallest or budgets.empty:
        return
    found = []
    for name, limit, taken, unit, symbol in (
        ("latency", budgets.latency, latency_s, 1e-3, "ms"),
        ("size", budgets.size, float(size_bytes), 1e6, "MB"),
        ("energy", budgets.energy, energy_j, 1e-3, "mJ"),
    ):
        if limit is None:
            continue
        share = latency_share if name == "latency" else 1.0
        if taken is None or taken > limit.of(taken) * share:
            return
        found.append(f"--{name} {limit.of(taken) / unit:.4g} {symbol}: it takes {taken / unit:.4g} {symbol}")
    raise AlreadyMetError(
        f"the original is within the budget ({'; '.join(found)}); keep it, or ask for less: --latency fastest, or a "
        "size such as --size 30%"
    )


def _parse(option: str, text: str, units: dict[str, float] | dict[str, int], examples: str) -> Limit:
    match = _QUANTITY.match(text)
    if match is None:
        raise UsageError(f"{option} {text!r}: no number with a unit; write for example {examples}")
    number, unit = float(match[1]), match[2]
    if number <= 0:
        raise UsageError(f"{option} {text!r}: must be greater than zero; write for example {examples}")
    factor = 0.01 if unit == "%" else units.get(unit.lower())
    if factor is None:
        raise UsageError(f"{option} {text!r}: unknown unit {unit!r}; use one of {', '.join(units)} or %")
    if not math.isfinite(number * factor):
        raise UsageError(f"{option} {text!r}: must be a finite number; write for example {examples}")
    return Limit(number * factor, relative=unit == "%")
