"""Options: how a field of a request is spelled on the command line and in config files, and what is said about it."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast, get_args, get_origin, get_type_hints

import onnx

from onnxmpq.errors import UsageError
from onnxmpq.files import nearest, shown

Source = str | Path | onnx.ModelProto
"""A model: its path, or the model itself."""
Kind = Literal[
    "text",
    "texts",
    "numbers",
    "whole",
    "file",
    "switch",
    "kinds",
    "patterns",
    "fields",
    "shapes",
    "cache",
    "python",
]
"""Values that the command line and config files take: a text, several texts, one or several numbers, a whole number, a
path, yes or no, kinds by output name, schemes by pattern, values by field of a recipe, shapes by input, a
folder or no; "python" for
arguments that only Python has."""
Group = Literal["Budgets", "Quality", "Samples", "Target", "Schemes", "Method", "Cluster", "Files", "Python only"]
"""What options are about, in the order in which `--help` and the docs show them."""
GROUPS: tuple[Group, ...] = get_args(Group)
Function = TypeVar("Function", bound=Callable[..., Any])
Given = ParamSpec("Given")
Asked = TypeVar("Asked")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Option:
    """help: one line, without a full stop. kind: what may be given. flags: on the command line, () for `--NAME`.

    least: of whole numbers. more: what Python and the docs say beside `help`, in sentences. metavar: what the command
    line's help writes for the value, such as DURATION; "" for switches. example: of a value, for config files, where
    neither the default nor the metavar is one.
    """

    help: str
    kind: Kind = "text"
    flags: tuple[str, ...] = ()
    least: int | None = None
    more: str = ""
    group: Group = field(kw_only=True)
    metavar: str = field(default="", kw_only=True)
    example: Any = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Declared:
    """A field of a request with its option. default: None where there is no other."""

    name: str
    annotation: Any
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """As the command line spells it, `--keep-io/--no-keep-io` for a switch that is on; () where it has none."""
        if self.option.kind == "python":
            return ()
        return self.option.flags or (f"--{self.name.replace('_', '-')}",)


def options_of(request: type[Any]) -> Mapping[str, Declared]:
    """The options that a dataclass declares with `Annotated[type, Option(...)]`, by field, in its order."""
    hints = get_type_hints(request, include_extras=True)
    found: dict[str, Declared] = {}
    for row in fields(request):
        kind, *extras = get_args(hints[row.name])
        [option] = [extra for extra in extras if isinstance(extra, Option)]
        found[row.name] = Declared(row.name, kind, None if row.default is MISSING else row.default, option)
    return found


def takes(
    request: Callable[Given, Asked],
) -> Callable[[Callable[[Source, Asked], Result]], Callable[Concatenate[Source, Given], Result]]:
    """Make `f(model, request)` a function that takes the request's fields as keyword arguments: `f(model, size="25%")`.

    Signature and documentation of the new function list the options. request: a dataclass for `options_of`.
    """

    def decorate(function: Callable[[Source, Asked], Result]) -> Callable[Concatenate[Source, Given], Result]:
        @functools.wraps(function)
        def called(model: Source, *args: Given.args, **options: Given.kwargs) -> Result:
            require_source(model)
            if args:
                raise UsageError(
                    f"{function.__name__}: only the model goes by position; name the rest, as output={args[0]!r:.60}"
                )
            require_known(function.__name__, options, options_of(request))  # type: ignore[arg-type]
            return function(model, request(*args, **options))

        assert isinstance(request, type)
        given = inspect.signature(function)
        rows = options_of(request).values()
        keywords = [
            inspect.Parameter(d.name, inspect.Parameter.KEYWORD_ONLY, default=d.default, annotation=d.annotation)
            for d in rows
        ]
        model_parameter = next(iter(given.parameters.values()))
        called.__signature__ = given.replace(parameters=[model_parameter, *keywords])  # type: ignore[attr-defined]
        called.__doc__ = f"{inspect.getdoc(function)}\n\n{documented(rows)}"
        return cast(Callable[Concatenate[Source, Given], Result], called)

    return decorate


def documents(request: type[Any]) -> Callable[[Function], Function]:
    """Give a function the documentation of those of its arguments that are called as options of a request."""

    def decorate(function: Function) -> Function:
        rows = options_of(request)
        named = [rows[name] for name in inspect.signature(function).parameters if name in rows]
        function.__doc__ = f"{inspect.getdoc(function)}\n\n{documented(named)}"
        return function

    return decorate


def require_source(model: object) -> None:
    """Raises UsageError for what is neither the path of a model nor a model."""
    if not isinstance(model, str | Path | onnx.ModelProto):
        raise UsageError(f"{shown(model)} is no model; give the path of an .onnx file, or an onnx.ModelProto")


def require_known(called: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError, as Python does for a keyword that a function does not take, with the nearest that it does."""
    names = list(known)
    for name in given:
        if name not in names:
            near = nearest(name, names, "it takes")
            raise TypeError(f"{called}() got an unexpected keyword argument {name!r}; {near}")


def documented(rows: Iterable[Declared]) -> str:
    """Part of a docstring: the options in their groups, a paragraph each, with type and default."""
    given, parts = list(rows), []
    for group in GROUPS:
        lines = [line for d in given if d.option.group == group for line in _documented(d)]
        if lines:
            parts.append("\n".join([group, "-" * len(group), *lines]))
    return "\n\n".join(parts)


def _documented(declared: Declared) -> list[str]:
    """name : type, default, and under it what the option is."""
    more = f". {declared.option.more}" if declared.option.more else ""
    said = f"{declared.option.help}{more}".removesuffix(".") + "."
    default = "" if declared.default in (None, ()) else f", default {declared.default!r}"
    head = f"{declared.name} : {_short_type(declared.annotation)}{default}"
    return [head, *textwrap.wrap(said, 96, initial_indent="    ", subsequent_indent="    ")]


def _short_type(annotation: Any) -> str:
    """The type in a few words: without modules, choices or signatures."""
    text = re.sub(r"Literal\[[^\]]*\]", "str", shown_type(annotation))
    text = re.sub(r"Callable\[.*\]", "Callable", text)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def shown_type(annotation: Any) -> str:
    """A type as the docs write it: `str | None`, `Mapping[str, str]`."""
    if get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")
