"""The options of a request as parameters of a typer command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import typer

from onnxmpq.request.config import parse_kinds
from onnxmpq.request.options import Declared, Kind, options_of
from onnxmpq.request.patterns import parse_patterns
from onnxmpq.request.request import Request

_TYPES: Mapping[Kind, Any] = {
    "text": str | None,
    "texts": list[str] | None,
    "whole": int | None,
    "file": Path | None,
    "switch": bool,
    "kinds": list[str] | None,
    "patterns": list[str] | None,
    "cache": Path | None,
}
_PARSERS: Mapping[Kind, Callable[[Iterable[str]], Any]] = {"kinds": parse_kinds, "patterns": parse_patterns}


def with_options(request: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command with a parameter `**options` a parameter for each option, in front of its own options."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(*args: Any, **options: Any) -> None:
            command(*args, **options)

        hints = get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(command).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        rows = [_parameter(declared) for declared in options_of(request).values() if declared.flags]
        parameters = [
            *(p for p in own if p.default is inspect.Parameter.empty),
            *rows,
            *(p for p in own if p.default is not inspect.Parameter.empty),
        ]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate


def option_like(name: str, *flags: str, **more: Any) -> Any:
    """For typer: an option of another command that means the same as the option `name` of `convert`.

    more: what differs, in typer's words.
    """
    said = options_of(Request)[name].option
    return typer.Option(*flags, **{"help": said.help, "metavar": said.metavar, "rich_help_panel": said.group} | more)


def given_options(request: type[Any], context: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the request for what the command line really says; defaults are left to the request."""
    found: dict[str, Any] = {}
    for name, declared in options_of(request).items():
        if declared.flags and _said(context, name):
            parse = _PARSERS.get(declared.option.kind)
            found[name] = options[name] if parse is None else parse(options[name])
    return found


def _said(context: typer.Context, name: str) -> bool:
    """True if the parameter is not at its default. By name: typer may bring its own copy of click."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _parameter(declared: Declared) -> inspect.Parameter:
    """Keyword parameter with the annotation that typer reads."""
    kind = declared.option.kind
    flags, default = declared.flags, declared.default
    if kind == "switch" and default:
        flags = (f"--{declared.name.replace('_', '-')}/--no-{declared.name.replace('_', '-')}",)
    if kind in ("texts", "kinds", "patterns", "cache"):
        default = None
    typed: Any = _TYPES[kind] if default is None or kind == "switch" else type(default)
    said = declared.option
    option = typer.Option(
        *flags, help=said.help, min=said.least, metavar=said.metavar or None, rich_help_panel=said.group
    )
    annotation = cast(Any, Annotated)[typed, option]
    return inspect.Parameter(declared.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
