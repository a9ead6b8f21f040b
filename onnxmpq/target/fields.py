"""Reading a target file field by field: every value checked, every complaint names file, field and reason."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn, TypeGuard, TypeVar

from onnxmpq.errors import TargetError
from onnxmpq.target.types import Figure

_Choice = TypeVar("_Choice", bound=str)

ASSUMPTION = "assumption:"


class Fields:
    """One TOML table whose fields are taken out one by one; `finish` refuses what is left over.

    where: the file. prefix: path of this table inside it, with a trailing dot, empty at the top.
    """

    def __init__(self, values: dict[str, object], where: str, prefix: str = "") -> None:
        self._values = dict(values)
        self._known: list[str] = []
        self._where = where
        self._prefix = prefix

    def wrong(self, name: str, reason: str) -> NoReturn:
        raise TargetError(f"target file {self._where}: field '{self._prefix}{name}' {reason}")

    def finish(self) -> None:
        for name in self._values:
            self.wrong(name, f"is unknown; {nearest(name, self._known, 'the fields are')}")

    def names(self, *but: str) -> list[str]:
        """Fields not yet taken, in file order."""
        return [name for name in self._values if name not in but]

    def has(self, name: str) -> bool:
        if name not in self._known:
            self._known.append(name)
        return name in self._values

    def _take(self, name: str) -> object:
        if not self.has(name):
            self.wrong(name, "is missing; add it")
        return self._values.pop(name)

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str) or not value.strip():
            self.wrong(name, f"is {_shown(value)}; it must be a text in quotes")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._take(name)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
            self.wrong(name, f"is {_shown(value)}; it must be a list of texts in quotes, at least one")
        return tuple(value)

    def choice(self, name: str, choices: Sequence[_Choice]) -> _Choice:
        value = self._take(name)
        for choice in choices:
            if value == choice:
                return choice
        self.wrong(name, f"is {_shown(value)}; it must be one of {', '.join(choices)}")

    def whole(self, name: str, lowest: int, highest: int) -> int:
        value = self._take(name)
        if not _is_whole(value) or not lowest <= value <= highest:
            self.wrong(name, f"is {_shown(value)}; it must be a whole number from {lowest} to {highest}")
        return value

    def wholes(self, name: str, lowest: int, highest: int) -> tuple[int, ...]:
        """Ascending whole numbers, each once."""
        value = self._take(name)
        items = value if isinstance(value, list) else []
        whole = [item for item in items if _is_whole(item) and lowest <= item <= highest]
        if not items or len(whole) < len(items) or whole != sorted(set(whole)):
            self.wrong(name, f"is {_shown(value)}; it must be a list of ascending numbers from {lowest} to {highest}")
        return tuple(whole)

    def positive(self, name: str) -> float:
        return self._positive(name, self._take(name))

    def figure(self, name: str) -> Figure:
        """`{ value = 1e12, source = "https://..." }`: a positive number with a URL or a stated assumption."""
        table = self.table(name)
        figure = Figure(table.positive("value"), table.source())
        table.finish()
        return figure

    def source(self) -> str:
        """This table's `source`."""
        text = self.text("source")
        if not text.startswith(("https://", "http://", ASSUMPTION)):
            self.wrong("source", f"is {_shown(text)}; it must be a URL, or begin with '{ASSUMPTION}' and state it")
        return text

    def table(self, name: str) -> Fields:
        value = self._take(name)
        if not isinstance(value, dict):
            self.wrong(name, f"is {_shown(value)}; it must be a table, [{self._prefix}{name}]")
        return Fields(value, self._where, f"{self._prefix}{name}.")

    def _positive(self, name: str, value: object) -> float:
        if not _is_number(value) or not 0 < value <= sys.float_info.max:
            self.wrong(name, f"is {_shown(value)}; it must be a number above 0")
        return float(value)


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """ "did you mean ...?" for a misspelt name, or the whole list after `otherwise` where nothing is near."""
    names = {item.casefold(): item for item in sorted(known)}
    near = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(names[key] for key in near)}?"
    return f"{otherwise} {', '.join(names.values())}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
