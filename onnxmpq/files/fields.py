"""Reading a TOML file field by field: every value checked, every complaint names file, field and reason."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn, Self, TypeGuard, TypeVar

from onnxmpq.errors import OnnxmpqError, UsageError

SIMILAR = 0.5  # share of the characters of two names that agree, above which one may be the other misspelt
SUGGESTED = 3  # names that are suggested at most
LISTED = 50  # names that a line has at most

_Choice = TypeVar("_Choice", bound=str)
_Default = TypeVar("_Default")


class _Required:
    """Marks a field without default."""


_REQUIRED = _Required()
_ABSENT = object()


class Fields:
    """One TOML table whose fields are taken out one by one; `finish` refuses what is left over.

    where: what the file is, and its path. error: the family that complaints belong to. prefix: path of this table
    inside the file, with a trailing dot, empty at the top.
    """

    def __init__(self, values: dict[str, object], where: str, error: type[OnnxmpqError], prefix: str = "") -> None:
        self._values = dict(values)
        self._known: list[str] = []
        self._where, self._error, self._prefix = where, error, prefix

    def wrong(self, name: str, reason: str) -> NoReturn:
        raise self._error(f"{self._where}: field '{self._prefix}{name}' {reason}")

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

    def _take(self, name: str, default: object) -> object:
        """The field's value; `_ABSENT` where it is not there but has a default."""
        if self.has(name):
            return self._values.pop(name)
        if isinstance(default, _Required):
            self.wrong(name, "is missing; add it")
        return _ABSENT

    def text(self, name: str, default: _Default | _Required = _REQUIRED) -> str | _Default:
        value = self._take(name, default)
        if value is _ABSENT:
            return _given(default)
        if not isinstance(value, str) or not value.strip():
            self.wrong(name, f"is {shown(value)}; it must be a text in quotes")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._take(name, _REQUIRED)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
            self.wrong(name, f"is {shown(value)}; it must be a list of texts in quotes, at least one")
        return tuple(value)

    def choice(
        self, name: str, choices: Sequence[_Choice], default: _Default | _Required = _REQUIRED
    ) -> _Choice | _Default:
        value = self._take(name, default)
        if value is _ABSENT:
            return _given(default)
        for choice in choices:
            if value == choice:
                return choice
        self.wrong(name, f"is {shown(value)}; it must be one of {', '.join(choices)}")

    def whole(
        self, name: str, lowest: int, highest: int | None = None, default: _Default | _Required = _REQUIRED
    ) -> int | _Default:
        value = self._take(name, default)
        if value is _ABSENT:
            return _given(default)
        if not is_whole(value) or value < lowest or (highest is not None and value > highest):
            bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
            self.wrong(name, f"is {shown(value)}; it must be a whole number {bounds}")
        return value

    def wholes(self, name: str, lowest: int, highest: int) -> tuple[int, ...]:
        """Ascending whole numbers, each once."""
        value = self._take(name, _REQUIRED)
        items = value if isinstance(value, list) else []
        whole = [item for item in items if is_whole(item) and lowest <= item <= highest]
        if not items or len(whole) < len(items) or whole != sorted(set(whole)):
            self.wrong(name, f"is {shown(value)}; it must be a list of ascending numbers from {lowest} to {highest}")
        return tuple(whole)

    def positive(
        self, name: str, default: _Default | _Required = _REQUIRED, *, highest: float | None = None
    ) -> float | _Default:
        """A finite number above 0."""
        value = self._take(name, default)
        if value is _ABSENT:
            return _given(default)
        if not is_number(value) or not 0 < value <= (sys.float_info.max if highest is None else highest):
            bound = "" if highest is None else f" and at most {highest:g}"
            self.wrong(name, f"is {shown(value)}; it must be a number above 0{bound}")
        return float(value)

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """One finite number, or a list of them."""
        value = self._take(name, default)
        if value is _ABSENT:
            return default
        items = value if isinstance(value, list) else [value]
        numbers = tuple(float(item) for item in items if is_number(item))
        if not numbers or len(numbers) < len(items):
            self.wrong(name, f"is {shown(value)}; it must be a number or a list of numbers, one per channel")
        return numbers

    def size(self, name: str) -> tuple[int, int] | None:
        """`224` or `[height, width]` as (height, width); None where the field is not there."""
        value = self._take(name, None)
        if value is _ABSENT:
            return None
        items = value if isinstance(value, list) else [value, value]
        pixels = [item for item in items if is_whole(item) and item > 0]
        if len(pixels) != 2 or len(items) != 2:
            self.wrong(name, f"is {shown(value)}; it must be a number of pixels or [height, width]")
        return pixels[0], pixels[1]

    def table(self, name: str) -> Self:
        value = self._take(name, None)
        if not isinstance(value, dict):
            found = "is missing" if value is _ABSENT else f"is {shown(value)}"
            self.wrong(name, f"{found}; it must be a table, [{self._prefix}{name}]")
        return type(self)(value, self._where, self._error, f"{self._prefix}{name}.")


def _given(default: _Default | _Required) -> _Default:
    assert not isinstance(default, _Required)
    return default


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """ "did you mean ...?" for a misspelt name, or the list after `otherwise` where nothing is near."""
    names = sorted(known) if isinstance(known, set | frozenset) else list(dict.fromkeys(known))
    if near := nearest_names(name, names):
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{otherwise} {', '.join(names[:LISTED])}{more}"


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """The known name that is most similar to a misspelt one, whatever the case; several only if they are equally near.

    Names that begin with `name` are equally near: it may be the beginning of any of them. At most `SUGGESTED`; empty
    where none is similar.
    """
    given, names = name.casefold(), {item.casefold(): item for item in known}
    if begun := [item for key, item in names.items() if key.startswith(given) and len(key) <= 3 * len(given)]:
        return begun[:SUGGESTED]
    share = {key: difflib.SequenceMatcher(None, key, given).ratio() for key in names}
    best = max(share.values(), default=0.0)
    return [names[key] for key in names if share[key] == best > SIMILAR][:SUGGESTED]


def as_path(given: object, wanted: str) -> Path:
    """The path that was given. wanted: the file that it should be of. Raises UsageError."""
    if not is_path(given):
        raise UsageError(f"{shown(given)} is no path; give the path of {wanted}")
    return Path(given)


def is_path(given: object) -> TypeGuard[str | os.PathLike[str]]:
    """A text, or a path of Python's, that a file may be called by; whether there is room for so long a name is up to
    the disk."""
    return isinstance(given, str | os.PathLike) and bool(text := os.fspath(given)) and "\0" not in text


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
