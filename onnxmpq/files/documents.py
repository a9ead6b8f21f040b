"""TOML and JSON. From others: files no larger, trees no deeper and numbers no longer than what they are for. Our own:
JSON that every parser reads.

Whatever is wrong with a file is an OSError or a ValueError; parsers also raise RecursionError, and what they let
through (whole numbers that no float holds, text that is no Unicode) fails later, where nobody expects it.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

LARGEST_TOML = 2**20  # bytes; recipes, targets and config files have a few thousand
LARGEST_JSON = 2**31  # bytes; plans hold weights
DEEPEST = 64  # tables and lists in each other


def read_toml(path: Path) -> dict[str, Any]:
    """The top table of a TOML file in UTF-8. Raises OSError or ValueError."""
    return parse_toml(read_text(path, LARGEST_TOML))


def parse_toml(text: str) -> dict[str, Any]:
    """The top table of a TOML text. Raises ValueError."""
    try:
        tree: dict[str, Any] = _sane(tomllib.loads(text))
        return tree
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_json(text: str | bytes, *, wide: bool = False) -> Any:
    """The value in a JSON text. wide: whole numbers may have more than 64 bits; who takes them checks them.

    Raises json.JSONDecodeError, a ValueError with the line, or another ValueError."""
    try:
        return _sane(json.loads(text), wide=wide)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def dump_json(value: object, *, indent: int | None = 1, sort_keys: bool = False) -> str:
    """JSON text of dataclasses, mappings, sequences, texts and numbers; of anything else, its `str`.

    JSON has no word for infinity and NaN: they become null. docs/plans.md says what null means in each field.
    """
    return json.dumps(plain(value), indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)


def plain(value: object) -> Any:
    """The value in tables, lists, texts, finite numbers, truth values and None alone, as `dump_json` writes it."""
    match value:
        case None | bool() | int() | str():
            return value
        case np.generic():
            return plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(inner) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)]
        case np.ndarray():
            return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {row.name: plain(getattr(value, row.name)) for row in fields(value)}
    return str(value)


def read_text(path: Path, largest: int = LARGEST_JSON) -> str:
    """A text file in UTF-8 of at most `largest` bytes; no more are read. Raises OSError or ValueError.

    A mark of the encoding that some editors put in front is left out."""
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    return content.decode("utf-8-sig")


def _sane(tree: Any, *, wide: bool = True) -> Any:
    """The tree itself. ValueError where it is too deep, or holds a number or a text that cannot be handled."""
    left = [(tree, 1)]
    while left:
        value, depth = left.pop()
        if isinstance(value, dict | list):
            if depth > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} deep")
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            left += [(v, depth + 1) for v in inner]
        elif isinstance(value, str):
            value.encode("utf-8")  # UnicodeEncodeError, a ValueError, for half a surrogate pair
        elif not wide and isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise ValueError("it has a whole number of more than 64 bits")
    return tree
