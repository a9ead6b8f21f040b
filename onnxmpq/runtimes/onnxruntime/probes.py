"""Probes: tiny graphs in the onnxruntime at hand, on the CPU at hand.

Nothing here follows from a version number or from a CPU's feature list: each answer comes from a session that was
opened, or run, on a graph of `probe_graphs.py`. Answers about what loads and what fuses come from a child process,
since a graph may crash it, and are kept in the cache by onnxruntime version, CPU and the probes' own source. What
saturates, and what is exact, is computed in this process and never kept: it takes milliseconds, and an emulator
(qemu-user) follows neither into a child process nor into the system's list of CPU features.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

import onnxmpq
from onnxmpq.cache import Cache, content_hash
from onnxmpq.cache import cache as caching
from onnxmpq.files import Archive
from onnxmpq.runtimes.onnxruntime.cpu import cpu_features, cpu_model
from onnxmpq.runtimes.onnxruntime.probe_graphs import PROBES
from onnxmpq.runtimes.onnxruntime.probe_worker import Answer, answer

TIMEOUT_S = 120  # for all probes together; they take about a second
HERE = frozenset({"saturates", "exact"})
"""Kinds of probes that are answered in this process."""
_PACKAGE = Path(__file__).parents[2]
_known: dict[str, Answer] = {}
_stores: list[Cache] = []


def keep_in(cache: Cache) -> None:
    """Where answers are looked for and kept from now on, instead of the default folder."""
    _stores[:] = [cache]


def answers(*, fresh: bool = False) -> Mapping[str, Answer]:
    """Every probe's answer, by name. A process asks once; fresh: ask again, and keep what is found."""
    if fresh:
        _known.clear()
        _here.cache_clear()
    if not _known:
        store = _stores[0] if _stores else Cache(caching.default_folder())
        key = _key()
        _known.update((None if fresh else store.get(key, _read)) or _ask())
        if all(a.holds is not None for a in _known.values()):  # what could not be told may be told tomorrow
            store.put(key, Archive(meta={name: asdict(a) for name, a in _known.items()}))
    return {**_known, **_here()}


def holds(name: str) -> bool | None:
    """True if what a probe asks is so, None where it could not be told. Raises KeyError for an unknown name."""
    return (_here() if PROBES[name].kind in HERE else answers())[name].holds


def saturates() -> bool:
    """True if a u8 x s8 kernel of the default session loses the sum of two products to 16 bits on this CPU."""
    return any(a.holds for name, a in _here().items() if PROBES[name].kind == "saturates")


@functools.cache
def _here() -> dict[str, Answer]:
    return {name: answer(probe) for name, probe in PROBES.items() if probe.kind in HERE}


def _key() -> str:
    source = {p.name: p.read_bytes() for p in Path(__file__).parent.glob("*.py")}
    versions = (onnxmpq.__version__, ort.__version__, onnx.__version__)
    return content_hash("probes", source, versions, cpu_features(), cpu_model())


def _read(entry: Archive) -> dict[str, Answer]:
    """Raises ValueError, TypeError or AttributeError for an entry that does not hold an answer to each question."""
    found = {name: Answer(**fields) for name, fields in entry.meta.items()}
    answers = [(answer.holds, answer.note) for answer in found.values()]
    if set(found) != set(_in_child()) or not all(isinstance(h, bool) and isinstance(n, str) for h, n in answers):
        raise ValueError("answers to other questions")
    return found


def _in_child() -> list[str]:
    return [name for name, probe in PROBES.items() if probe.kind not in HERE]


def _ask() -> dict[str, Answer]:
    """Puts the questions to a child process, and to another one those behind a graph that ended it."""
    found: dict[str, Answer] = {}
    while waiting := [name for name in _in_child() if name not in found]:
        lines, ending = _child(waiting)
        found |= {name: Answer(**fields) for name, fields in lines}
        if crashed := next((name for name in waiting if name not in found), None):
            loads = PROBES[crashed].kind == "loads"
            found[crashed] = Answer(False if loads else None, f"the process {ending} on this graph")
    return found


def _child(names: Sequence[str]) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """(name, answer) as far as the child came, and how it ended. Here where no Python can be started."""
    if "python" not in Path(sys.executable or "").name.lower() or hasattr(sys, "frozen"):
        return [(name, asdict(answer(PROBES[name]))) for name in names], ""
    path = os.pathsep.join(p for p in (str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-m", "onnxmpq.runtimes.onnxruntime.probe_worker"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(names).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            timeout=TIMEOUT_S,
            check=False,
        )
        output, ending = done.stdout, f"ended with code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output, ending = late.stdout or b"", f"did not end within {TIMEOUT_S} s"
    except OSError as error:
        return [(name, asdict(Answer(None, f"no child process: {error.strerror}"))) for name in names], ""
    return [tuple(json.loads(line)) for line in output.splitlines() if line.endswith(b"]")], ending
