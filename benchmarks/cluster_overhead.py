"""Cost of `local:1` and `local:2` beside no cluster: seconds and CPU seconds of conversions with a made-up cost table.

    python -m benchmarks.cluster_overhead MODEL CALIB [--recipe R] [--latency 60%] [--samples 48] [--rounds 3]
        [--clusters local:1 ...]

Each conversion is a process of its own, in turn without a cluster and with each of them. CPU seconds are those of the
process and of all that it started and waited for (workers, processes that round), which other work on the machine
changes little; seconds are what the whole took, which means something on a quiet machine only. Start and end of the
cluster are in both. The table has the least of each, as what disturbs only adds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path
from statistics import median

from benchmarks.cluster_runs import converted
from benchmarks.stages import table_of
from onnxmpq.progress import Silent
from tests.tables import int8_pays

NONE = "none"


def convert(asked: argparse.Namespace, cluster: str, costs: Path) -> None:
    found = converted(asked, costs, None if cluster == NONE else cluster, Silent())
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # waits for it, so that its workers are counted
    print(found)


def measured(arguments: list[str], cluster: str, costs: Path) -> tuple[float, float, str]:
    """(seconds, CPU seconds, hash of the model) of one conversion."""
    command = [sys.executable, "-m", "benchmarks.cluster_overhead", *arguments, "--one", cluster, str(costs)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, said.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration")
    parser.add_argument("--recipe")
    parser.add_argument("--latency", default="60%")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clusters", nargs="+", default=["local:1", "local:2"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # cluster and cost table, in the process of its own
    asked = parser.parse_args()
    if asked.one:
        convert(asked, asked.one[0], Path(asked.one[1]))
        return
    rows: dict[str, list[tuple[float, float]]] = {}
    hashes = set()
    with tempfile.TemporaryDirectory() as folder:
        costs = int8_pays(asked.model, Path(folder))
        for _ in range(asked.rounds):
            for cluster in (NONE, *asked.clusters):
                seconds, cpu_s, found = measured(sys.argv[1:], cluster, costs)
                rows.setdefault(cluster, []).append((seconds, cpu_s))
                hashes.add(found)
                print(f"{cluster}: {seconds:.1f} s, {cpu_s:.1f} s of CPU", flush=True)
    best = {cluster: tuple(map(min, zip(*found_rows, strict=True))) for cluster, found_rows in rows.items()}
    ratio = {c: median(cpu / one for (_, cpu), (_, one) in zip(rows[c], rows[NONE], strict=True)) for c in rows}
    cells = [
        [c, f"{s:.1f} ({s / best[NONE][0]:.2f})", f"{cpu:.1f} ({cpu / best[NONE][1]:.2f})", f"{ratio[c]:.2f}"]
        for c, (s, cpu) in best.items()
    ]
    print(f"{asked.model.name}, least of {asked.rounds} rounds; in brackets relative to none")
    print(table_of(["cluster", "seconds", "CPU seconds", "median ratio of CPU seconds in a round"], cells))
    raise SystemExit(len(hashes) > 1)


if __name__ == "__main__":
    main()
