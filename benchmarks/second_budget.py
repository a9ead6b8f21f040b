"""What the cache saves: conversions of one model for one budget after another, in processes of their own.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.second_budget [MODEL ...] [--samples 64]

Per model, with an empty cache folder: `--latency fastest`, then 70%, then 85% with a cost table that `onnxmpq profile`
measured before. Prints wall time, CPU time of all processes, and what came from the cache. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxmpq
from benchmarks.forecast import cpu_seconds
from benchmarks.stages import machine, models, table_of
from benchmarks.zoo import arrays, zoo
from onnxmpq.commands import profile_model
from onnxmpq.files import write_text

SAMPLES = 64
HELD_OUT = 21


def conversion(name: str, budget: str, folder: Path, samples: int, table: Path | None) -> dict[str, Any]:
    """Seconds of one conversion, wall and CPU, and what it reused."""
    entry = zoo().load(name)
    given = arrays(entry, "calib", samples + HELD_OUT)
    start, cpu = time.perf_counter(), cpu_seconds()
    result = onnxmpq.convert(
        entry.model, latency=budget, calibration=given, samples=samples, cache=folder, cost_table=table
    )
    seconds, cpu_s = time.perf_counter() - start, cpu_seconds() - cpu
    return {"seconds": seconds, "cpu_s": cpu_s, "reused": result.report.reused}


def rows_of(name: str, samples: int) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder, table = Path(scratch) / "cache", Path(scratch) / "costs.json"
        entry = zoo().load(name)
        write_text(table, profile_model(entry.model, calibration=arrays(entry, "calib", 8)).to_json())
        for budget, given in (("fastest", ""), ("70%", ""), ("85%", str(table))):
            command = [sys.executable, "-m", "benchmarks.second_budget", name, "--samples", str(samples)]
            command += ["--one", budget, "--folder", str(folder), *(["--table", given] if given else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            reused = ", ".join(f"{what} {n}/{of}" for what, (n, of) in found["reused"].items())
            seconds = f"{found['seconds']:.1f}", f"{found['cpu_s']:.1f}"
            rows.append((name, budget, "yes" if given else "", *seconds, reused))
        held = sum(p.stat().st_size for p in folder.rglob("*.npz"))
        rows.append((name, "", "", "", "", f"cache folder: {held / 1e6:.0f} MB"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(conversion(options.models[0], options.one, options.folder, options.samples, options.table)))
        return
    print(machine())
    rows = [row for name in models(options.models) for row in rows_of(name, options.samples)]
    print(table_of(["model", "latency", "cost table given", "s", "CPU s", "from the cache"], rows))


if __name__ == "__main__":
    main()
