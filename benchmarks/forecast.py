"""Forecast of a conversion's stages beside what they took, in wall and CPU seconds.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.forecast [MODEL ...] [--latency fastest] [--size 30%] [--samples 64]

CPU seconds are those of this process, of the child that runs models, and of the workers that round; on a machine with
other work they say more than wall seconds do. "Idle": what they come to on cores that nothing else uses, where stages
that work side by side share them. Linux only.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnxmpq
from benchmarks.stages import machine, models, table_of
from benchmarks.zoo import arrays, zoo
from onnxmpq.progress import ROUNDING, SENSITIVITY, SEQUENCE, UNSEEN, Progress, Tick
from onnxmpq.threads import workers

HELD_OUT = 21
SIDE_BY_SIDE = (ROUNDING, SENSITIVITY, UNSEEN, SEQUENCE)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Of this process and all below it, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(map(int, fields[11:15]))

    def is_ours(process: int) -> bool:
        while process and process != os.getpid():
            process = parents.get(process, 0)
        return bool(process)

    return sum(t for process, t in ticks.items() if is_ours(process)) / TICKS_PER_S


class Compared(Progress):
    """Notes what is expected and what is taken. expected: seconds by stage; taken: (stage, wall s, CPU s)."""

    def __init__(self) -> None:
        self.expected: Mapping[str, float] = {}
        self.taken: list[tuple[str, float, float]] = []

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        start, cpu = time.perf_counter(), cpu_seconds()
        yield lambda _: None
        self.taken.append((what, time.perf_counter() - start, cpu_seconds() - cpu))

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.expected = seconds


def rows_of(name: str, samples: int, budgets: Mapping[str, str | None]) -> list[Sequence[object]]:
    entry, compared = zoo().load(name), Compared()
    given = arrays(entry, "calib", samples + HELD_OUT)
    onnxmpq.convert(entry.model, **budgets, calibration=given, samples=samples, cache=False, progress=compared)
    found: list[Sequence[object]] = []
    for what, wall_s, cpu_s in compared.taken:
        expected = f"{compared.expected[what]:.1f}" if what in compared.expected else ""
        found.append((name, what, expected, f"{wall_s:.1f}", f"{cpu_s:.1f}", f"{_idle_s(what, cpu_s):.1f}"))
    rest = [(wall_s, cpu_s, _idle_s(w, cpu_s)) for w, wall_s, cpu_s in compared.taken if w in compared.expected]
    totals = sum(compared.expected.values()), *(sum(column) for column in zip(*rest, strict=True))
    found.append((name, "all that was forecast", *(f"{seconds:.1f}" for seconds in totals)))
    return found


def _idle_s(what: str, cpu_s: float) -> float:
    return cpu_s / workers() if what in SIDE_BY_SIDE else cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--latency")
    parser.add_argument("--size")
    options = parser.parse_args()
    budgets = {"latency": options.latency, "size": options.size}
    print(machine())
    rows = [row for name in models(options.models) for row in rows_of(name, options.samples, budgets)]
    print(table_of(["model", "stage", "forecast s", "taken s", "CPU s", "idle s"], rows))


if __name__ == "__main__":
    main()
