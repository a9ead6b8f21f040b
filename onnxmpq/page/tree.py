"""Reading JSON from others without believing it: every value is asked for with its type, and is absent where it has
another one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MOST = 1e30
"""No figure of a report is larger; sums and ratios of such numbers stay finite."""


@dataclass(frozen=True)
class Tree:
    """A place in a JSON document. value: None where there is nothing."""

    value: Any

    def at(self, *path: str) -> Tree:
        """The place below, by the names of tables."""
        found = self.value
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return Tree(found)

    def __bool__(self) -> bool:
        """False where there is nothing, or an empty table, list or text."""
        return self.value is not None and self.value not in ({}, [], "")

    def number(self, *path: str) -> float | None:
        """A finite number of a sane size; None for anything else."""
        found = self.level(*path)
        return found if found is not None and abs(found) <= MOST else None

    def level(self, *path: str) -> float | None:
        """A number that may be infinite, as the SQNR of equal outputs is; None for anything else, NaN too."""
        found = self.at(*path).value
        if not isinstance(found, int | float) or isinstance(found, bool):
            return None
        try:
            return None if math.isnan(found) else float(found)
        except OverflowError:
            return None

    def sqnr_db(self) -> float | None:
        """Of an output. Infinite where nothing differs, for which strict JSON has no word but null."""
        found = self.level("sqnr_db")
        return math.inf if found is None and self.number("relative_mse") == 0 else found

    def whole(self, *path: str) -> int | None:
        """A number without fraction; None for anything else."""
        found = self.number(*path)
        return int(found) if found is not None and found.is_integer() else None

    def text(self, *path: str) -> str:
        """A text; empty for anything else."""
        found = self.at(*path).value
        return found if isinstance(found, str) else ""

    def flag(self, *path: str) -> bool | None:
        found = self.at(*path).value
        return found if isinstance(found, bool) else None

    def rows(self, *path: str) -> list[Tree]:
        """The tables of a list."""
        found = self.at(*path).value
        return [Tree(v) for v in found if isinstance(v, dict)] if isinstance(found, list) else []

    def texts(self, *path: str) -> list[str]:
        """The texts of a list."""
        found = self.at(*path).value
        return [v for v in found if isinstance(v, str)] if isinstance(found, list) else []

    def items(self, *path: str) -> list[tuple[str, Tree]]:
        """Names and values of a table."""
        found = self.at(*path).value
        return [(k, Tree(v)) for k, v in found.items()] if isinstance(found, dict) else []
