"""Seconds of each stage of a conversion with 1 to 16 workers of `local:N`, and without a cluster (0).

    python -m benchmarks.cluster_scaling MODEL CALIB [--recipe R] [--samples 16] [--workers 0 1 2 4 8 16]

A made-up cost table, so that all conversions give the same bytes; exit code 1 if they do not. Prints the seconds of the
whole conversion and of the stages that have tasks, and their efficiency: worker seconds of the first number of workers
over those of this one. Without a cluster rounding has processes on all cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cluster_runs import converted
from benchmarks.stages import machine, table_of
from onnxmpq.progress import ROUNDING, SENSITIVITY, Progress, Tick
from tests.tables import int8_pays

STAGES = (ROUNDING, SENSITIVITY)


@dataclass
class Clock(Progress):
    """Seconds of each stage, by its name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        start = time.perf_counter()
        yield lambda _: None
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    def say(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        print(f"    {message}", flush=True)


def timed(asked: argparse.Namespace, workers: int, costs: Path) -> tuple[dict[str, float], str]:
    """Seconds by stage, with "" for all, and the hash of the model."""
    clock, start = Clock(), time.perf_counter()
    found = converted(asked, costs, f"local:{workers}" if workers else None, clock)
    return clock.seconds | {"": time.perf_counter() - start}, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration")
    parser.add_argument("--recipe")
    parser.add_argument("--latency", default="60%")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    asked = parser.parse_args()
    print(f"{machine()}, {os.cpu_count()} cores", flush=True)
    rows: list[list[object]] = []
    alone: dict[str, float] = {}
    hashes = set()
    with tempfile.TemporaryDirectory() as folder:
        costs = int8_pays(asked.model, Path(folder))
        for workers in asked.workers:
            seconds, found = timed(asked, workers, costs)
            hashes.add(found)
            if workers and not alone:
                alone = {stage: workers * s for stage, s in seconds.items()}
            row: list[object] = [workers or "no cluster", f"{seconds['']:.1f}"]
            for stage in STAGES:
                share = f" ({alone[stage] / (workers * seconds[stage]):.2f})" if workers else ""
                row.append(f"{seconds[stage]:.1f}{share}")
            rows.append(row)
            print(row, found[:12], flush=True)
    print(table_of(["workers", "s", *(f"{stage}, s (efficiency)" for stage in STAGES)], rows))
    raise SystemExit(len(hashes) > 1)


if __name__ == "__main__":
    main()
