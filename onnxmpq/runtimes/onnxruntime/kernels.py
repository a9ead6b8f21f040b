"""Seconds per kernel, by onnxruntime's own profiler."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.runtimes.onnxruntime.session import SessionSettings, open_session, profile_folder, run

_KERNEL_SUFFIX = "_kernel_time"
_MOST_RUNS = 200


@dataclass(frozen=True)
class Trace:
    """durations_s: by kernel. optimized: the optimised graph without weights; names and operators are what is read."""

    durations_s: dict[str, float]
    optimized: onnx.ModelProto


def trace(
    proto: onnx.ModelProto,
    feeds: Mapping[str, NDArray[np.generic]],
    settings: SessionSettings,
    runs: int,
    seconds: float,
) -> Trace:
    """Seconds per kernel, as the mean of the fastest third of its runs. Raises ModelError."""
    with profile_folder() as folder:
        optimized_path = str(folder / "optimized.onnx")
        session = open_session(
            proto, replace(settings, profile_prefix=str(folder / "profile"), optimized_path=optimized_path)
        )
        end, done = time.perf_counter() + seconds, 0
        while done < runs or (time.perf_counter() < end and done < _MOST_RUNS):
            run(session, feeds)
            done += 1
        events = json.loads(Path(session.end_profiling()).read_text())
        optimized = onnx.load(optimized_path, load_external_data=False)
    optimized.graph.ClearField("initializer")
    durations: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX):
            durations[event["name"].removesuffix(_KERNEL_SUFFIX)].append(event["dur"] * 1e-6)
    return Trace({n: _fastest_third(d) * max(len(d) // done, 1) for n, d in durations.items()}, optimized)


def _fastest_third(durations: list[float]) -> float:
    """Mean of the fastest third: robust against interruptions, finer than the profiler's microsecond."""
    ordered = np.sort(durations)
    return float(ordered[: max(len(ordered) // 3, 1)].mean())
