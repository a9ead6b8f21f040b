"""`onnxmpq doctor`: what a bug report starts with. Versions, CPU, what onnxruntime does here, timer, folders, targets.

It never fails: what cannot be found out is a line that says why.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console

import onnxmpq
from onnxmpq.cache import Cache
from onnxmpq.progress import Progress
from onnxmpq.runtimes import FLOAT_BLOCKED, PROBES, Call, Kind, cpu_features, cpu_model, open_session, probes, window
from onnxmpq.target import available_targets

TIMED_BATCHES = 100
BATCH_S = 0.002  # long against the clock's own resolution, short against a time slice of the scheduler
_GRANULE = 2**20


@dataclass(frozen=True)
class Finding:
    """One line. value: what JSON holds. text: for people; of a line that failed, the reason. failed: whether it did."""

    section: str
    name: str
    value: Any
    text: str
    failed: bool = False


def examine(cache: str | Path | bool = True, *, fresh: bool = False) -> list[Finding]:
    """Every finding, in the order of printing. fresh: put the probes to onnxruntime again. Never raises."""
    store = Cache.of(cache, Progress())
    probes.keep_in(store)
    return [_found(section, name, look) for section, name, look in _lines(store, fresh)]


def as_dict(found: list[Finding]) -> dict[str, Any]:
    """Section -> name -> value; a line that failed is {"failed": reason}."""
    sections: dict[str, Any] = {}
    for line in found:
        sections.setdefault(line.section, {})[line.name] = {"failed": line.text} if line.failed else line.value
    return sections


def render(found: list[Finding], console: Console) -> None:
    """A line each, below their sections."""
    width = max(len(line.name) for line in found) + 2
    section = ""
    for line in found:
        if line.section != section:
            section = line.section
            console.print(f"[{section}]", markup=False, highlight=False)
        text = f"cannot be told: {line.text}" if line.failed else line.text
        console.print(f"  {line.name:<{width}}{text}", markup=False, highlight=False, soft_wrap=True)


_Looked = tuple[Any, str]  # value, text
_Look = Callable[[], _Looked]


def _found(section: str, name: str, look: _Look) -> Finding:
    try:
        value, text = look()
    except Exception as error:  # the point of this command is to survive whatever is wrong
        return Finding(section, name, None, " ".join(f"{type(error).__name__}: {error}".split()), failed=True)
    return Finding(section, name, value, text)


def _plain(value: Any) -> _Look:
    return lambda: (value, str(value))


def _lines(store: Cache, fresh: bool) -> Iterator[tuple[str, str, _Look]]:
    for name, found in (
        ("onnxmpq", onnxmpq.__version__),
        ("Python", platform.python_version()),
        ("onnx", onnx.__version__),
        ("numpy", np.__version__),
        ("highspy", version("highspy")),
    ):
        yield "versions", name, _plain(found)
    yield "versions", "onnxruntime", _runtime
    yield "versions", "installed in", _plain(str(Path(__file__).parents[1]))
    yield "machine", "system", _plain(platform.platform())
    yield "machine", "CPU", lambda: (cpu_model(), cpu_model())
    yield "machine", "features", lambda: (list(cpu_features()), " ".join(cpu_features()))
    yield "machine", "cores", _cores
    yield "machine", "timer noise", _timer
    yield "onnxruntime", "providers", lambda: (ort.get_available_providers(), ", ".join(ort.get_available_providers()))
    yield "onnxruntime", "fused", lambda: _asked("fuses", fresh)
    yield "onnxruntime", "unfolded once", lambda: _asked("folds")
    yield "onnxruntime", "float8 loads", _float8
    yield "onnxruntime", "int8 kernels", _saturation
    yield "onnxruntime", "dynamic kernels", lambda: _asked("exact")
    yield "onnxruntime", "fused operators", lambda: _asked("agrees")
    yield "onnxruntime", "layouts", lambda: _asked("layout")
    yield "folders", "cache", lambda: _cache(store)
    yield "folders", "temporary", _temporary
    yield "folders", "HOME", _home
    yield "targets", "available", _targets


def _runtime() -> _Looked:
    verdict = window.outside() or f"inside the tested range, {window.OLDEST} to {window.NEWEST}"
    return {"version": ort.__version__, "verdict": verdict}, f"{ort.__version__} ({verdict})"


def _cores() -> _Looked:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"usable": usable, "installed": os.cpu_count()}, f"{usable} usable of {os.cpu_count()}"


def _asked(kind: Kind, fresh: bool = False) -> _Looked:
    """The probes of a kind: which hold, which do not, which could not be told."""
    known = probes.answers(fresh=fresh)
    found = {name: known[name].holds for name, probe in PROBES.items() if probe.kind == kind}
    said = {True: "yes", False: "no", None: "not told"}
    groups = {word: [n for n, holds in found.items() if holds is state] for state, word in said.items()}
    return found, "; ".join(f"{word}: {', '.join(names)}" for word, names in groups.items() if names)


def _float8() -> _Looked:
    found, _ = _asked("loads")
    refused = [name for name, holds in found.items() if not holds]
    shown = f"; refused: {', '.join(refused[:3])}{', ...' if len(refused) > 3 else ''}" if refused else ""
    return found, f"{len(found) - len(refused)} of {len(found)} patterns in the default session{shown}"


def _saturation() -> _Looked:
    found, _ = _asked("saturates")
    short = {name.removeprefix("uint8 ").removesuffix(" by int8 saturates"): holds for name, holds in found.items()}
    names = [name for name, holds in short.items() if holds]
    exact = [name for name, holds in short.items() if holds is False]
    if not names:
        return found, f"exact: {', '.join(exact)}"
    return found, f"sums of two products saturate at 16 bits: {', '.join(names)}; exact: {', '.join(exact) or 'none'}"


def _timer() -> _Looked:
    """Times of batches of runs of one small convolution; spread: 90th over 10th percentile."""
    session = open_session(PROBES[FLOAT_BLOCKED].graph())
    call = Call.of(session, {"x": np.zeros(session.get_inputs()[0].shape, np.float32)})
    runs, lasted = 1, 0.0
    while lasted < BATCH_S:  # doubled until a batch is long enough
        runs *= 2
        lasted = _batch(call, runs)
    times = np.array([_batch(call, runs) for _ in range(TIMED_BATCHES)]) / runs
    low, median, high = np.percentile(times, [10, 50, 90])
    value = {"median_us": round(median * 1e6, 2), "spread": round(high / low, 3), "batches": TIMED_BATCHES}
    told = "a small convolution" + f", {TIMED_BATCHES} batches of {runs} runs: median {median * 1e6:.1f} us"
    return value, f"{told}; 90th percentile {high / low:.2f}x of the 10th"


def _batch(call: Call, runs: int) -> float:
    start = time.perf_counter()
    for _ in range(runs):
        call()
    return time.perf_counter() - start


def _cache(store: Cache) -> _Looked:
    if store.folder is None:
        return {"folder": None}, "none: neither XDG_CACHE_HOME nor a home folder is set, or --no-cache"
    entries = [p.stat().st_size for p in store.folder.rglob("*") if os.path.isfile(p)]
    reason = _unwritable(store.folder)
    value = {"folder": str(store.folder), "bytes": sum(entries), "entries": len(entries), "writable": not reason}
    state = f"cannot be written ({reason}); choose another with --cache" if reason else "writable"
    return value, f"{store.folder}: {len(entries)} entries, {sum(entries) / _GRANULE:.1f} MiB, {state}"


def _unwritable(folder: Path) -> str:
    """Why no file can be made in a folder, or in the one that it would be made in; "" where one can."""
    existing = next((p for p in (folder, *folder.parents) if os.path.exists(p)), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def _temporary() -> _Looked:
    folder = Path(tempfile.gettempdir())  # raises where none can be written
    reason, free = _unwritable(folder), shutil.disk_usage(folder).free
    state = f"cannot be written ({reason}); set TMPDIR" if reason else "writable"
    value = {"folder": str(folder), "writable": not reason, "free_bytes": free}
    return value, f"{folder}: {state}, {free / 2**30:.1f} GiB free"


def _home() -> _Looked:
    home = os.environ.get("HOME") or (os.environ.get("USERPROFILE") if sys.platform == "win32" else None)
    return home, home or "not set"


def _targets() -> _Looked:
    names = [target.name for target in available_targets()]
    return names, ", ".join(names)
