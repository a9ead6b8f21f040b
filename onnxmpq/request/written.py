"""Writing a config file: every option of a command, those in effect as values, the others as comments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxmpq.errors import UsageError
from onnxmpq.request.command_line import config_name, is_said, options_in
from onnxmpq.request.options import GROUPS, options_of
from onnxmpq.request.request import Request

_HEAD = (
    "# Options of `onnxmpq {command}`: those in effect; the others are commented out, with their defaults.\n"
    "# Words in capitals stand for values."
)


def config_text(context: Any) -> str:
    """TOML of the options of a command that is running. context: typer's."""
    lines = [_HEAD.format(command=context.command.name)]
    sections: dict[str, list[str]] = {group: [] for group in GROUPS}
    for parameter in options_in(context.command):
        section = sections.setdefault(parameter.rich_help_panel or "Other", [])
        section.extend(_lines(parameter, context))
    for title, section in sections.items():
        if section:
            lines += ["", f"# ---- {title}", *section]
    return "\n".join(lines) + "\n"


def _lines(parameter: Any, context: Any) -> Iterator[str]:
    name, value = config_name(parameter), context.params[parameter.name]
    said = is_said(context, parameter.name)
    if name == "cache" and context.params.get("no_cache") and not said:
        said, value = True, False
    yield f"# {parameter.help}"
    yield f"{name} = {toml(value)}" if said else f"# {name} = {_example(parameter)}"


def _example(parameter: Any) -> str:
    """The default, or a value of the right type where there is none: without its # the line is an option to be read."""
    declared = options_of(Request).get(parameter.name)
    if declared is not None and declared.option.example is not None:
        return toml(declared.option.example)
    if parameter.multiple:
        return toml([parameter.metavar])
    return toml(parameter.metavar if parameter.default is None else parameter.default)


def toml(value: Any) -> str:
    """A TOML value. Raises TypeError for what an option cannot be, UsageError for a path that is no Unicode."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str() | Path():
            if any(
                "\udc80" <= letter <= "\udcff" for letter in str(value)
            ):  # as Python has bytes of names that are no UTF-8
                raise UsageError(f"{str(value)!r} is no text in UTF-8, which TOML needs; rename the file")
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
    raise TypeError(f"{type(value).__name__} is no value of an option")
