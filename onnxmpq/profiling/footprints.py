"""Costs of opening a model: time until a session can run, and memory of the session."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmpq.allocate import Limit
from onnxmpq.feeds import Array, Feeds, Timed
from onnxmpq.isolation import call, release_memory
from onnxmpq.runtimes import SessionSettings, absolute, open_session, run

OPENINGS = 3
_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5), clear_refs: the peak of resident memory becomes what is resident now


@dataclass(frozen=True)
class Footprint:
    """load_s: fastest of three openings of a file that the system has read before. peak_bytes, held_bytes: resident
    memory that opening and one run add, at their peak and afterwards; None where the system does not tell."""

    load_s: float
    peak_bytes: int | None
    held_bytes: int | None


def footprint(model: Any, inputs: dict[str, Array], settings: SessionSettings) -> Footprint:
    """Of a model (path, bytes or proto) on one sample, measured in the child. Raises ModelError, CrashError."""
    return call(_measured, absolute(model), inputs, settings, doing="opening the model")


def measured_sessions(
    original: Any, result: Any, feeds: Feeds | Timed, settings: SessionSettings
) -> tuple[Footprint, Footprint]:
    """Of the original and of the converted model, on the typical sample. Raises ModelError, CrashError."""
    first = Timed.of(feeds).first
    inputs = first.batch([first.typical])
    return footprint(original, inputs, settings), footprint(result, inputs, settings)


def memory_unmet(limit: Limit, before: Footprint, after: Footprint) -> str:
    """The figures in words where a session takes more memory than the limit, or the system does not tell; else ""."""
    if before.peak_bytes is None or after.peak_bytes is None:
        return "this system does not tell how much memory a session takes"
    most = limit.of(before.peak_bytes)
    if after.peak_bytes <= most:
        return ""
    taken, original, asked = (f"{value / 1e6:.1f} MB" for value in (after.peak_bytes, before.peak_bytes, most))
    return f"a session takes {taken} of memory with one run (the original {original}), at most {asked} asked"


def sessions_in_words(before: Footprint, after: Footprint) -> str:
    """One line."""
    text = f"session opens in {before.load_s * 1e3:.1f} ms -> {after.load_s * 1e3:.1f} ms"
    if before.peak_bytes is None or after.peak_bytes is None:
        return text
    return f"{text}, takes {before.peak_bytes / 1e6:.1f} MB -> {after.peak_bytes / 1e6:.1f} MB of memory with one run"


def _measured(model: Any, inputs: dict[str, Array], settings: SessionSettings) -> Footprint:
    gc.collect()
    release_memory()  # or what earlier sessions left would be used again unseen
    before = _resident("VmRSS")
    with suppress(OSError):
        _REFERENCES.write_text(_RESET_PEAK)
    loads = []
    session, taken = _opened(model, settings)
    loads.append(taken)
    run(session, inputs)
    peak, held = _resident("VmHWM"), _resident("VmRSS")
    del session
    for _ in range(OPENINGS - 1):
        loads.append(_opened(model, settings)[1])
    return Footprint(min(loads), _more(peak, before), _more(held, before))


def _more(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else max(after - before, 0)


def _opened(model: Any, settings: SessionSettings) -> tuple[Any, float]:
    start = time.perf_counter()
    session = open_session(model, settings)
    return session, time.perf_counter() - start


def _resident(field: str) -> int | None:
    """Bytes of a field of /proc/self/status (proc(5)); None where there is none."""
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    return None
