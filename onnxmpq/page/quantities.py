"""Each quantity that can be limited: of the original, asked for, predicted and measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxmpq.allocate import LATENCY, QUANTITIES, SIZE, Quantity
from onnxmpq.page import figures
from onnxmpq.page.document import Document
from onnxmpq.page.tree import Tree

_LIMIT = re.compile(r"([0-9.]+(?:e[-+]?[0-9]+)?)\s*(\S+)", re.IGNORECASE)
_LONGEST_LIMIT = 40  # characters


@dataclass(frozen=True)
class Taken:
    """One quantity, in the unit of its figure (ms, bytes, mJ). limit: None where there is none, or only the least was
    asked for. low, high: 95 % interval of the measured figure."""

    quantity: Quantity
    asked: str
    original: float | None
    limit: float | None
    predicted: float | None
    measured: float | None
    low: float | None = None
    high: float | None = None

    @property
    def title(self) -> str:
        return self.quantity.name.capitalize()

    @property
    def result(self) -> float | None:
        """Measured where it was."""
        return self.predicted if self.measured is None else self.measured

    @property
    def met(self) -> bool | None:
        """None without a limit."""
        return None if self.limit is None or self.result is None else self.result <= self.limit

    @property
    def change(self) -> str:
        """Of the original, in words."""
        if self.result is None or not self.original:
            return ""
        ratio = self.result / self.original
        if self.quantity.name == LATENCY:
            return figures.speed(ratio)
        return f"{abs(1 - ratio):.0%} {'less' if ratio <= 1 else 'more'}"

    def show(self, value: float | None) -> str:
        """A figure with its unit."""
        if value is None:
            return figures.UNKNOWN
        if self.quantity.name == SIZE:
            return figures.size(value)
        if self.quantity.name == LATENCY:
            return f"{figures.ms(value)} ms"
        return self.quantity.unit.show(value / self.quantity.per_unit)


def taken(document: Document) -> list[Taken]:
    """A row for each quantity of which anything is known."""
    rows = (_taken(document, quantity) for quantity in QUANTITIES.values())
    return [row for row in rows if row.result is not None]


def _taken(document: Document, quantity: Quantity) -> Taken:
    plan, figure = document.plan, quantity.figure
    original = plan.number("measured", f"original_{figure}") or plan.number("prediction", f"original_{figure}")
    if quantity.name == SIZE:
        original = plan.number("model", "bytes")
    asked = plan.text("budgets", quantity.name)
    return Taken(
        quantity,
        asked,
        original,
        _limit(quantity, asked, original),
        plan.number("prediction", figure),
        plan.number("measured", figure),
        plan.number("measured", f"{figure}_low"),
        plan.number("measured", f"{figure}_high"),
    )


def _limit(quantity: Quantity, asked: str, original: float | None) -> float | None:
    """A budget as plans spell it, such as 5ms, 3MB or 60%."""
    match = _LIMIT.fullmatch(asked[:_LONGEST_LIMIT].strip())
    if match is None:
        return None
    try:
        number = float(match[1])
    except ValueError:
        return None
    if match[2] == "%":
        found = None if original is None else number / 100 * original
    else:
        factor = quantity.units.get(match[2].lower())
        found = None if factor is None else number * factor * quantity.per_unit
    return Tree(found).number()
