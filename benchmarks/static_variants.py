"""Static int8 as others avoid its overflow, beside converted models: SQNR against fp32, metric and time.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.static_variants [MODEL[:SAMPLES] ...] [--cpu Haswell ...]
        [--files DIR] [--limit 400] [--score-emulated] [--work DIR] [--out results.json]

Per model: onnxruntime's static int8 (per channel, 64 calibration samples) in a default session, the same with
`session.x64quantprecision` set to 1, the same made with `reduce_range` (weights of 7 bits), and the files that
`benchmarks.zoo_table --keep DIR` left in DIR/MODEL. SQNR: SAMPLES test samples (default 60), against fp32 natively, on
this machine and on emulated ones. Metric: the first --limit test samples, on this machine; --score-emulated on all.
ms: this machine only, all interleaved in one process, one thread, one input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_worker import open_model
from benchmarks.cpus import (
    Trial,
    Variant,
    add_options,
    decibels,
    kept_files,
    read,
    show,
    static_file,
)
from benchmarks.emulation import THIS, Machine
from benchmarks.zoo import arrays
from benchmarks.zoo_table import LONG
from onnxmpq.cost.measure import interleaved_s
from onnxmpq.runtimes import Call

PRECISE = {"session.x64quantprecision": "1"}


def variants_of(entry: Any, folder: Path, files: Path | None) -> list[Variant]:
    """fp32 first."""
    static = static_file(entry, folder)
    return [
        Variant("fp32", entry.model),
        Variant("static int8", static),
        Variant("static int8, reduce_range", static_file(entry, folder, reduce_range=True)),
        Variant("static int8, x64quantprecision", static, PRECISE),
        *kept_files(files, entry.name),
    ]


def score(entry: Any, outputs: Sequence[np.ndarray]) -> float:
    """The entry's metric of outputs of its first test samples."""
    count = len(outputs[0])
    each = iter([[a[i : i + 1] for a in outputs] for i in range(count)])
    found: float = entry.score(lambda feeds: next(each), count, batch=1)
    return found


def timed(entry: Any, variants: Sequence[Variant]) -> list[np.ndarray]:
    """Seconds of each variant, the minimum of each round."""
    sessions = [open_model(v.model, v.entries) for v in variants]
    return interleaved_s([Call.of(s, arrays(entry, "test", 1)) for s in sessions], LONG)


def rows_of(
    entry: Any, samples: int, machines: Sequence[Machine], work: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per variant: milliseconds; dB and metric by machine."""
    whole = Trial.of(entry, max(samples, options.limit), work)
    few = replace(whole, samples=min(samples, whole.samples))
    variants = variants_of(entry, whole.folder, options.files)
    times = timed(entry, variants)
    rows: list[dict[str, Any]] = [
        {
            "model": entry.name,
            "what": v.label,
            "ms": float(np.median(seconds)) * 1e3,
            "vs_fp32": float(np.median(times[0] / seconds)),
            "mb": v.model.stat().st_size / 1e6,
            "samples": few.samples,
            "db": {},
            "metric": {},
        }
        for v, seconds in zip(variants, times, strict=True)
    ]
    reference = read(whole.outputs(THIS, variants[:1], options.patience)[0], few.samples)
    for machine in machines:
        scored = machine == THIS or options.score_emulated
        found = (whole if scored else few).outputs(machine, variants, options.patience)
        for row, path in zip(rows, found, strict=True):
            outputs = read(path)
            row["db"][machine.name] = decibels(reference, [a[: few.samples] for a in outputs])
            if scored:
                row["metric"][machine.name] = score(entry, [a[: options.limit] for a in outputs])
        print(f"{entry.name}: {machine.name}: done", file=sys.stderr, flush=True)
    return rows


def markdown(rows: Sequence[dict[str, Any]], machines: Sequence[Machine]) -> str:
    names = [m.name for m in machines]
    scored = [n for n in names if n in rows[0]["metric"]]
    columns = ["model", "", "ms", "vs fp32", "MB", *(f"dB, {n}" for n in names), *(f"metric, {n}" for n in scored)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        db = [f"{row['db'][n]:.1f}" if np.isfinite(row["db"][n]) else "" for n in names]
        metric = [f"{row['metric'][n]:.4f}" for n in scored]
        cells = [row["model"], row["what"], f"{row['ms']:.3f}", f"{row['vs_fp32']:.2f}x", f"{row['mb']:.2f}"]
        lines.append(f"| {' | '.join([*cells, *db, *metric])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--score-emulated", action="store_true")
    show(parser.parse_args(), rows_of, markdown)


if __name__ == "__main__":
    main()
