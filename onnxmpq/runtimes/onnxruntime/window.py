"""The versions of onnxruntime that onnxmpq supports, and a warning for any other."""

from __future__ import annotations

import re
from collections.abc import Callable

import onnxruntime as ort

TESTED: tuple[str, ...] = (
    "1.23.0",
    "1.23.2",
    "1.24.4",
    "1.25.1",
    "1.26.0",
    "1.27.0",
    "1.28.0",
    "1.29.0",
    "1.30.0",
    "1.31.1",
    "1.32.0",
)
"""Installed one by one by `.ci/runtimes`, ascending. 1.22 has no Cast from int4, with which every weight of 4 to 6 bits
is unfolded (docs/runtimes.md)."""
OLDEST, NEWEST = TESTED[0], TESTED[-1]
_warned: set[str] = set()


def outside(version: str = ort.__version__) -> str:
    """Why a version is not supported and what to install, in one line; "" inside the window.

    Patch releases and builds (1.32.1, 1.32.0+cu12) count as their minor version.
    """
    known = f"onnxmpq is tested with {OLDEST} to {_minor(NEWEST)}"
    remedy = f"if it misbehaves, install onnxruntime=={NEWEST}"
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        return f"onnxruntime {version} is of no known version, {known}; {remedy}"
    minor = (int(found[1]), int(found[2]))
    if minor < _pair(OLDEST):
        return f"onnxruntime {version} is older than supported, {known}; {remedy}"
    if minor > _pair(NEWEST):
        return f"onnxruntime {version} is newer than supported, {known}; {remedy}"
    return ""


def warn_outside(warn: Callable[[str], None]) -> None:
    """One warning a process where the installed onnxruntime is outside the window."""
    message = outside(ort.__version__)
    if message and message not in _warned:
        _warned.add(message)
        warn(message)


def _pair(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def _minor(version: str) -> str:
    return "{}.{}".format(*_pair(version))
