"""Arguments of public functions: misspelt names and values of other types are errors of one line, before any work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from onnxmpq.errors import UsageError
from onnxmpq.files import shown
from onnxmpq.request.accepted import accepted
from onnxmpq.request.options import options_of, require_known
from onnxmpq.request.request import Request

Given = ParamSpec("Given")
Result = TypeVar("Result")
_WORDS = {str: "a text", Path: "a path", int: "a whole number", float: "a number", bool: "True or False"}


def accepts(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Check the arguments of a function before it is called.

    Those that are called as options of `convert` follow the same rules as there. The others have the types that their
    annotations say, as far as those are classes; what has no default is left to the function. Raises UsageError for a
    value, TypeError for an unknown name.
    """
    signature, hints = inspect.signature(function), get_type_hints(function)
    rows = options_of(Request)
    more = [p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    known = [*signature.parameters, *(rows if more else ())]

    @functools.wraps(function)
    def called(*args: Given.args, **options: Given.kwargs) -> Result:
        require_known(function.__name__, options, [name for name in known if name not in more])
        bound = signature.bind(*args, **options)
        for name, value in bound.arguments.items():
            default = signature.parameters[name].default
            if value is default or default is inspect.Parameter.empty:
                continue
            if name in rows:
                bound.arguments[name] = accepted(rows[name], value)
            else:
                _require(name, value, _classes(hints[name]))
        return function(*bound.args, **bound.kwargs)

    return called


def _classes(annotation: Any) -> tuple[type, ...]:
    """The classes of an annotation; empty where it is more than a choice of classes."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    found = tuple(get_origin(option) or option for option in options)
    return found if all(isinstance(option, type) for option in found) else ()


def _require(name: str, value: Any, classes: tuple[type, ...]) -> None:
    plain = value.item() if isinstance(value, np.generic) else value
    number = isinstance(plain, bool) and bool not in classes  # True is an int to Python, not to a caller
    if not classes or (isinstance(plain, classes) and not number):
        return
    words = [_WORDS.get(option, f"of class {option.__name__}") for option in classes if option is not NoneType]
    raise UsageError(f"{name}={shown(value)}: must be {' or '.join(words)}")
