"""Values of Python callers as options have them: a single text where a list is meant, NumPy's numbers, other paths.

What cannot be meant is a UsageError that says what to write instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, Protocol, get_args, runtime_checkable

import numpy as np

from onnxmpq.allocate import QUANTITIES
from onnxmpq.errors import UsageError
from onnxmpq.feeds import Recipe
from onnxmpq.files import is_path, shown
from onnxmpq.progress import Progress
from onnxmpq.ranges import Calibration
from onnxmpq.request.options import Declared, options_of

DATA = frozenset({"calibration", "labels"})
"""Options that take the path of a file, and arrays as well."""
NUMBERS_TOO = frozenset({"min_sqnr", "max_divergence", "min_agreement", "max_drop", "scale"})
"""Options of a text that may be a number."""


@runtime_checkable
class _Client(Protocol):
    """distributed's Client, which is not imported for this."""

    def submit(self, *args: Any, **options: Any) -> Any: ...

    def scatter(self, *args: Any, **options: Any) -> Any: ...


_OBJECTS_TOO: Mapping[str, tuple[tuple[type, ...], str]] = {
    "metric": ((Callable,), "a function, or module:function as a text"),  # type: ignore[dict-item]
    "recipe": (get_args(Recipe), "the name of a recipe, a .toml file, or a recipe"),
    "cluster": ((_Client,), "tcp://HOST:PORT, local:N, or a client of distributed"),
    "ranges": ((Calibration,), "the path of a file, or a Calibration"),
}
"""Options that take Python objects beside texts and paths."""


def accept(request: Any) -> None:
    """Bring the fields of a request, a frozen dataclass, into their types. Raises UsageError."""
    for name, declared in options_of(type(request)).items():
        object.__setattr__(request, name, accepted(declared, getattr(request, name)))


def accepted(declared: Declared, value: Any) -> Any:
    """The value as the option has it; None where it may be left out. Raises UsageError."""
    name, kind = declared.name, declared.option.kind

    def wrong(wanted: str) -> NoReturn:
        raise UsageError(f"{name}={shown(value)}: {wanted}")

    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        if isinstance(declared.default, int | str):
            wrong(f"leave it out for the default, {declared.default!r}")
        return () if declared.default == () else None
    match kind:
        case "texts":
            return _texts(name, value)
        case "whole":
            if isinstance(value, bool) or not isinstance(value, int):
                wrong("must be a whole number")
        case "switch":
            if not isinstance(value, bool):
                wrong("must be True or False")
        case "kinds" | "patterns" | "fields":
            if not isinstance(value, Mapping):
                wrong(f"must be a dict, such as {{'name': '{_EXAMPLES[kind]}'}}")
        case "file":
            if not is_path(value) and not _is_object(name, value):
                wrong(f"must be {_OBJECTS_TOO[name][1] if name in _OBJECTS_TOO else 'the path of a file'}")
        case "text" if name in QUANTITIES:
            return _budget(name, value)
        case "text" if name in DATA:
            if isinstance(value, str | os.PathLike) and not is_path(value):
                wrong("must be the path of a file, or arrays")
        case "text":
            if isinstance(value, bool) or not _is_text(name, value):
                wrong(f"must be {_OBJECTS_TOO[name][1] if name in _OBJECTS_TOO else 'a text'}")
            return str(value) if isinstance(value, Path) else value
        case "numbers":
            if isinstance(value, bool) or not isinstance(value, str | int | float | Sequence | np.ndarray):
                wrong("must be a number, or one for each channel")
            return value.tolist() if isinstance(value, np.ndarray) else value
        case "cache":
            if not isinstance(value, bool) and not is_path(value):
                wrong("must be a folder, or True or False")
        case "shapes":
            if not isinstance(value, Mapping):
                wrong("must be a dict, such as {'image': '8x3x224x224'}")
        case "python":
            [kind_of] = (option for option in get_args(declared.annotation) if option is not NoneType)
            if not isinstance(value, kind_of):
                wrong(f"must be of class {kind_of.__name__}" + _SUBCLASS * (kind_of is Progress))
    return value


_SUBCLASS = ": subclass onnxmpq.Progress, and give an object of it"
_EXAMPLES = {"kinds": "logits", "patterns": "int8", "fields": "letterbox"}


def _is_text(name: str, value: Any) -> bool:
    if name in NUMBERS_TOO and isinstance(value, int | float):
        return True
    return isinstance(value, str | Path) or _is_object(name, value)


def _is_object(name: str, value: Any) -> bool:
    return name in _OBJECTS_TOO and isinstance(value, _OBJECTS_TOO[name][0])


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """One text, or several."""
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"{name}: {shown(text)} is no text; give names in a list, such as {name}=['first']")
    return texts


def _budget(name: str, value: Any) -> str:
    """A budget needs its unit: a bare number may be seconds, milliseconds, or a share."""
    if isinstance(value, str):
        return value
    quantity = QUANTITIES[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UsageError(f"{name}={shown(value)}: write a number with a unit, such as {name}={_example(name)}")
    unit = quantity.unit
    spelled = f'{name}="{value / unit.value:g}{unit.symbol}"'
    if quantity.whole and value < 1:  # no file has a part of a byte
        wanted = f'write {name}="{value * 100:g}%" for a share of the original'
        raise UsageError(f"{name}={value!r}: a number without a unit; {wanted}")
    share = f', or {name}="{value * 100:g}%" for a share of the original' if value < 1 else ""
    raise UsageError(f"{name}={value!r}: a number without a unit; write {spelled} for {value:g} {_own(name)}{share}")


def _own(name: str) -> str:
    """Unit in which the quantity is counted."""
    return next(symbol for symbol, value in QUANTITIES[name].units.items() if value == 1) if name != "size" else "bytes"


def _example(name: str) -> str:
    return f'"{QUANTITIES[name].examples.split(",")[0]}"'
