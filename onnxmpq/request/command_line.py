"""The options of a request as parameters of a typer command."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import typer

from onnxmpq.errors import UsageError
from onnxmpq.feeds import parse_fields, parse_shapes
from onnxmpq.request.config import parse_kinds, read_config
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
    "numbers": str | None,
    "fields": list[str] | None,
    "shapes": list[str] | None,
    "cache": Path | None,
}
_PARSERS: Mapping[Kind, Callable[[Iterable[str]], Any]] = {
    "kinds": parse_kinds,
    "patterns": parse_patterns,
    "fields": parse_fields,
    "shapes": parse_shapes,
}


def with_options(
    request: type[Any], left_out: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command with a parameter `**options` a parameter for each option, in front of its own options.

    left_out: names of options that the command does not have.
    """

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
        declared = [d for name, d in options_of(request).items() if d.flags and name not in left_out]
        rows = [_parameter(d) for d in declared]
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
        if name in options and is_said(context, name):
            parse = _PARSERS.get(declared.option.kind)
            found[name] = options[name] if parse is None else parse(options[name])
    return {**found, **(_cache_or_none(context) if "cache" in options else {})}


def _cache_or_none(context: Any) -> dict[str, Any]:
    """`cache=False` for --no-cache. Of --cache and that, the one on the command line wins over one of a file."""
    if not context.params.get("no_cache"):
        return {}
    places = [context.get_parameter_source(name).name for name in ("cache", "no_cache")]
    if places[0] == places[1]:
        raise UsageError("--cache and --no-cache exclude each other; give one of them")
    return {} if places[0] == "COMMANDLINE" else {"cache": False}


def is_said(context: Any, name: str) -> bool:
    """True if the parameter is not at its default. By name: typer may bring its own copy of click."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


_UNWRITTEN = ("config", "write_config", "dry_run", "no_cache", "debug", "help")  # no options of a config file


def options_in(command: Any) -> list[Any]:
    """Parameters of a typer command that a config file may hold."""
    return [p for p in command.params if p.param_type_name == "option" and p.name not in _UNWRITTEN]


def config_name(parameter: Any) -> str:
    """Name of an option in config files: the request's, or the flag's where only the command line has it."""
    if parameter.name in options_of(Request):
        return str(parameter.name)
    flag = next(opt for opt in parameter.opts if opt.startswith("--"))
    return str(flag.removeprefix("--").replace("-", "_"))


def take_config(context: Any, path: Path | None) -> Path | None:
    """Callback of `--config`, called before the other options are read: what the file says becomes their default.

    Raises UsageError as `read_config` does.
    """
    if path is None or context.resilient_parsing:  # completion reads no files
        return path
    own = {config_name(p): p for p in options_in(context.command) if p.name not in options_of(Request)}
    found = read_config(path, {name: "switch" if p.is_flag else "file" for name, p in own.items()})
    named = {own[name].name if name in own else name: value for name, value in found.items()}
    if isinstance(named.get("cache"), bool):
        named["no_cache"] = not named.pop("cache")
    context.default_map = {**(context.default_map or {}), **{name: _spelled(v) for name, v in named.items()}}
    return path


def _spelled(value: Any) -> Any:
    """A value of a config file as the command line would give it."""
    if isinstance(value, Mapping):
        return [f"{name}={_text(v)}" for name, v in value.items()]
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, tuple):  # names of schemes, or sizes of axes
        return ("x" if all(isinstance(part, int) for part in value) else "|").join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _parameter(declared: Declared) -> inspect.Parameter:
    """Keyword parameter with the annotation that typer reads."""
    kind = declared.option.kind
    flags, default = declared.flags, declared.default
    if kind == "switch" and default:
        flags = (f"--{declared.name.replace('_', '-')}/--no-{declared.name.replace('_', '-')}",)
    if kind in ("texts", "kinds", "patterns", "fields", "shapes", "cache"):
        default = None
    typed: Any = _TYPES[kind] if default is None or kind == "switch" else type(default)
    said = declared.option
    option = typer.Option(
        *flags, help=said.help, min=said.least, metavar=said.metavar or None, rich_help_panel=said.group
    )
    annotation = cast(Any, Annotated)[typed, option]
    return inspect.Parameter(declared.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
