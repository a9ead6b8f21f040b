"""Recipes with fields of the user's instead of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from onnxmpq.errors import UsageError
from onnxmpq.feeds.recipes import Recipe, find_file, make_recipe, read_fields
from onnxmpq.files import parse_toml

PLAIN: Mapping[str, object] = {
    "kind": "image",
    "description": "pictures squeezed to the model's size",
    "resize": "exact",
}
"""Fields of the recipe that is meant where only fields are given."""
Numbers = float | str | Sequence[float]


def override(recipe: str | None, fields: Mapping[str, object]) -> Recipe:
    """The recipe (by name or path, or a plain one for pictures) with these fields in place of its own.

    Raises CalibrationError, as for a file, where they do not fit.
    """
    path = None if recipe is None else find_file(recipe)
    given = dict(PLAIN) if path is None else read_fields(path)
    if isinstance(tokenizer := fields.get("tokenizer"), str):  # as typed, not relative to the recipe
        fields = {**fields, "tokenizer": str(Path(tokenizer).absolute())}
    name = f"{recipe or 'plain'} with {', '.join(fields)}"
    return make_recipe({**given, **fields}, f"recipe {name}", name, Path() if path is None else path.parent)


def parse_fields(entries: Iterable[str], where: str = "--recipe-field") -> dict[str, object]:
    """Fields from KEY=VALUE; VALUE as in TOML, or a text without quotes. Raises UsageError."""
    found: dict[str, object] = {}
    for entry in entries:
        key, equals, text = (part.strip() for part in entry.partition("="))
        if not key or not equals or not text:
            raise UsageError(f"{where} {entry!r}: write KEY=VALUE, such as resize=letterbox (docs/calibration)")
        try:
            found[key] = parse_toml(f"value = {text}")["value"]
        except ValueError:
            found[key] = text
    return found


def numbers(given: Numbers, where: str) -> list[float]:
    """One number or one per channel, from numbers or from a text such as 0.485,0.456,0.406. Raises UsageError."""
    parts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int | float) else list(given)
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError):
        raise UsageError(f"{where} {given!r}: write one number, or one per channel with commas between") from None


def divisor(scale: float | str) -> float:
    """1 / scale, of a number or of a text such as 1/255. Raises UsageError."""
    upper, _, lower = str(scale).partition("/")
    try:
        value = float(lower or 1) / float(upper)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"--scale {scale!r}: write what pixels are multiplied by, such as 1/255 or 0.0039")
    return value
