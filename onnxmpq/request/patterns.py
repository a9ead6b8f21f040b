"""Values of `--set`: PATTERN=SCHEME, or PATTERN=SCHEME|SCHEME."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxmpq.errors import UsageError
from onnxmpq.schemes import scheme_named


def parse_patterns(entries: Iterable[str], where: str = "--set") -> dict[str, tuple[str, ...]]:
    """Scheme names by pattern, in order; the scheme is what follows the last "=". Raises UsageError."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        pattern, _, schemes = entry.rpartition("=")
        if not pattern or not schemes.strip():
            raise UsageError(f"{where} {entry!r}: write PATTERN=SCHEME, such as 'Softmax=fp32' or 'head*=int8|w8'")
        if pattern in found:
            raise UsageError(f"{where} {entry!r}: pattern {pattern!r} is given twice; write {pattern}=SCHEME|SCHEME")
        found[pattern] = _schemes(schemes, f"{where} {entry!r}")
    return found


def patterns_of(given: Mapping[str, str | Iterable[str]], where: str = "set") -> dict[str, tuple[str, ...]]:
    """The same from a table: by pattern a text as on the command line, or names of schemes. Raises UsageError."""
    return {
        pattern: _schemes(names if isinstance(names, str) else "|".join(names), f"{where}: {pattern!r}")
        for pattern, names in given.items()
    }


def _schemes(text: str, where: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split("|")))
    if not any(names):
        raise UsageError(f"{where} has no scheme; write for example 'int8' or 'int8|w8'")
    for name in names:
        try:
            scheme_named(name)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return names
