"""Config files: options of `convert` in TOML, by the names that Python's arguments or the command line have."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from onnxmpq.errors import UsageError
from onnxmpq.feeds import parse_fields, parse_shapes
from onnxmpq.files import is_number, is_path, is_whole, nearest, read_toml, shown
from onnxmpq.request.accepted import DATA, NUMBERS_TOO
from onnxmpq.request.options import Declared, Kind, Option, options_of
from onnxmpq.request.patterns import parse_patterns, patterns_of
from onnxmpq.request.request import Request
from onnxmpq.sensitivity import KINDS, OutputKind

_UNITS = '"5ms", "3MB" or "60%"'
_WANTED = {
    "text": "a text in quotes",
    "texts": "a text in quotes or a list of them",
    "whole": "a whole number",
    "file": "a path in quotes",
    "switch": "true or false",
    "kinds": "a table of NAME = KIND, or texts such as NAME=KIND",
    "numbers": "a number, a list of numbers or a text in quotes",
    "fields": "a table of FIELD = VALUE, or texts such as FIELD=VALUE",
    "shapes": "a table of INPUT = [sizes], or texts such as INPUT=8x3x224x224",
    "patterns": "a table of PATTERN = SCHEME, or texts such as PATTERN=SCHEME",
    "cache": "a folder in quotes, or false",
}


def read_config(path: Path, own: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """Arguments of `Request` by name. Paths are relative to the current folder, as on the command line.

    own: further options, which only the command has, with their kind. Raises UsageError, with file and option, for a
    file that is no TOML, an unknown option or a value of a wrong type.
    """
    try:
        values = read_toml(path)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"--config {path}: cannot be read ({what}); give a TOML file of options") from None
    return _options(values, f"--config {path}: ", {name: _only_here(name, kind) for name, kind in (own or {}).items()})


def options_from(
    values: Mapping[str, Any], where: str, more: Iterable[str] = (), but: Collection[str] = ()
) -> dict[str, Any]:
    """Arguments of `Request` by name, from a table. where: in front of errors. more: other names that would be right.
    but: options that the table does not have.

    Raises UsageError for an unknown option or a value of a wrong type.
    """
    return _options(values, where, {}, more, but)


def _options(
    values: Mapping[str, Any],
    where: str,
    own: Mapping[str, Declared],
    more: Iterable[str] = (),
    but: Collection[str] = (),
) -> dict[str, Any]:
    spellings = {key: declared for key, declared in {**_spellings(), **own}.items() if declared.name not in but}
    found, spelled = dict[str, Any](), dict[str, str]()
    for key, value in values.items():
        declared = spellings.get(key.replace("-", "_"))
        if declared is None:
            hint = nearest(key, [*spellings, *more], "the options are")
            raise UsageError(f"{where}option '{key}' is unknown; {hint}")
        if declared.name in found:
            raise UsageError(f"{where}option '{key}' is given twice, also as '{spelled[declared.name]}'")
        spelled[declared.name] = key
        found[declared.name] = _value(declared, value, f"{where}option '{key}'")
    return found


def asks_for_json(arguments: Sequence[str]) -> bool:
    """True for a command line with `--json`, or with a config file that says `json = true`.

    Read apart from the options, because a command line that cannot be parsed is answered in JSON as well.
    """
    if "--json" in arguments:
        return True
    given = [b for a, b in itertools.pairwise(arguments) if a == "--config"]
    given += [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    for path in given[-1:]:
        with suppress(OSError, ValueError):  # a file that cannot be read is an error of its own
            return read_toml(Path(path)).get("json") is True
    return False


def _only_here(name: str, kind: Kind) -> Declared:
    """An option that is none of the request."""
    return Declared(name, None, None, Option("", kind, group="Files"))


def _spellings() -> dict[str, Declared]:
    """Options by the names they may have in a file."""
    found: dict[str, Declared] = {}
    for declared in options_of(Request).values():
        if declared.flags:
            flag = declared.flags[0].removeprefix("--").replace("-", "_")
            found |= {declared.name: declared, flag: declared}
    return found


def _value(declared: Declared, value: object, where: str) -> Any:
    kind = declared.option.kind
    path = kind == "file" or declared.name in DATA

    def wrong() -> NoReturn:
        raise UsageError(f"{where} is {shown(value)}; it must be {_WANTED['file' if path else kind]}")

    if declared.option.group == "Budgets" and kind == "text" and is_number(value):
        raise UsageError(f"{where} is {value}, a number without a unit; write it in quotes with one, such as {_UNITS}")
    match kind:
        case "text" | "file" if isinstance(value, str) and (is_path(value) or not path):
            return value
        case "text" if is_number(value) and declared.name in NUMBERS_TOO:
            return str(value)
        case "texts":
            texts = [value] if isinstance(value, str) else value
            if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
                return tuple(texts)
        case "whole" if is_whole(value):
            return value
        case "switch" if isinstance(value, bool):
            return value
        case "cache" if isinstance(value, str | bool):
            return value
        case "numbers" if isinstance(value, str) or is_number(value):
            return str(value)
        case "numbers" if isinstance(value, list) and value and all(map(is_number, value)):
            return ",".join(map(str, value))
        case "fields" if isinstance(value, dict):
            return value
        case "fields" if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return parse_fields(value, where)
        case "shapes" if isinstance(value, dict):
            return parse_shapes([f"{name}={_sizes(size)}" for name, size in value.items()], where)
        case "shapes" if isinstance(value, list):
            return parse_shapes(map(str, value), where)
        case "patterns" if isinstance(value, dict) and all(map(_is_schemes, value.values())):
            return patterns_of(value, where)
        case "patterns" if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return parse_patterns(value, where)
        case "kinds" if isinstance(value, dict | list):
            entries = [f"{name}={kind}" for name, kind in value.items()] if isinstance(value, dict) else value
            return parse_kinds(map(str, entries), where)
    wrong()


def _sizes(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_schemes(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def parse_kinds(entries: Iterable[str], where: str = "--output-kind") -> dict[str, OutputKind]:
    """Output kinds from NAME=KIND. Raises UsageError."""
    kinds: dict[str, OutputKind] = {}
    for entry in entries:
        name, _, text = entry.rpartition("=")
        kind = next((kind for kind in KINDS if kind == text), None)
        if not name or kind is None:
            raise UsageError(f"{where} {entry!r}: write NAME=KIND with KIND one of {', '.join(KINDS)}")
        kinds[name] = kind
    return kinds
