"""A request as plans and models keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxmpq.request.options import options_of
from onnxmpq.request.request import Request

_ELSEWHERE = frozenset({"calibration", "labels", "cluster"})
"""Sources of data, of which a plan has the content's hash, and who did the work. Kinds in `_OF_THIS_RUN` decide nothing
or name files."""
_OF_THIS_RUN = frozenset({"file", "cache", "python"})


def asked_for(request: Request) -> dict[str, Any]:
    """Options that are not at their default, by Python's names, as texts, numbers, truth values, lists and tables.

    Without names of files: equal inputs in other folders make equal plans.
    """
    found: dict[str, Any] = {}
    for name, declared in options_of(Request).items():
        value = getattr(request, name)
        if name in _ELSEWHERE or declared.option.kind in _OF_THIS_RUN or value in (None, declared.default):
            continue
        found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if callable(value):
        return getattr(value, "__name__", "function")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
