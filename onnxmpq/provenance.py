"""Where a file was made, beside the machine at hand: which versions and which CPU, and what differs.

The tables compared are those of `describe_runtime`, which plans, cost tables and calibrations hold.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import onnxmpq
from onnxmpq.cache import content_hash
from onnxmpq.runtimes import cpu_features, cpu_model

VERSIONS = ("onnxmpq", "onnxruntime", "onnx", "numpy", "highspy")
_MACHINE_ID = Path("/etc/machine-id")


def describe_runtime() -> dict[str, str]:
    """Versions of what computes, CPU model and its features: for plans, cost tables, calibrations and cache keys."""
    return {
        "onnxmpq": onnxmpq.__version__,
        "onnxruntime": ort.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "highspy": version("highspy"),
        "cpu": cpu_model(),
        "cpu_features": " ".join(cpu_features()),
        "platform": platform.platform(terse=True),
    }


@functools.cache
def machine_id() -> str:
    """12 hexadecimal digits that tell machines and containers apart, and other sets of cores on one of them."""
    try:
        installed = _MACHINE_ID.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        installed = ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return content_hash(platform.node(), installed, cores)[:12]


class SchemaMismatch(ValueError):
    """A file of another schema than the one that is read. The message names both."""


def require_schema(found: object, wanted: str) -> None:
    """Raises SchemaMismatch."""
    if found != wanted:
        has = f"its schema is {found!r}" if found is not None else "it names no schema"
        raise SchemaMismatch(f"{has}, this version of onnxmpq reads {wanted!r}")


def other_versions(there: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    """Packages of another version, as "onnx 1.19.0 (here 1.23.2)"."""
    return [
        f"{name} {there.get(name, 'of an unknown version')} (here {here.get(name, 'unknown')})"
        for name in VERSIONS
        if there.get(name) != here.get(name)
    ]


def other_features(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """Differences of this machine's CPU features, as "without avx512_vnni and with i8mm as well"; empty where nothing
    does, or where those there are not known."""
    theirs, ours = (str(row.get("cpu_features", "")).split() for row in (there, here))
    lacking, added = ([f for f in one if f not in other] for one, other in ((theirs, ours), (ours, theirs)))
    parts = [f"without {' '.join(lacking)}" if lacking else "", f"with {' '.join(added)} as well" if added else ""]
    return " and ".join(p for p in parts if p) if theirs else ""


def another_cpu(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """This machine's CPU where it is another model or has other features; empty where it is the same."""
    apart = other_features(there, here)
    if there.get("cpu") == here.get("cpu") and not apart:
        return ""
    return f"{here.get('cpu', 'an unknown CPU')}, {apart or 'of the same features'}"
