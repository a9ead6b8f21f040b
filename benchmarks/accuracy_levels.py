"""Weights in blocks everywhere, at accuracy level 0 and 4, against plans that choose for each layer.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.accuracy_levels [MODEL] [--samples 64] [--limit 200]

Each row is a conversion on the same calibration samples. Then all files are timed in one process, interleaved, one
thread, and scored on the first test samples.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import onnxmpq
from benchmarks.stages import machine
from benchmarks.zoo import arrays, session, sqnr_db, static_int8, zoo
from onnxmpq.cost import Effort
from onnxmpq.cost.measure import interleaved_s
from onnxmpq.runtimes import Call

BLOCKS = ("w4b32-level0", "w4b32", "w4b128", "w8b128")
REQUESTS: Mapping[str, Mapping[str, Any]] = {
    **{
        f"{name} everywhere": {"set": {"*": name}, "size": "smallest", "guard": False, "best_effort": True}
        for name in BLOCKS
    },
    "plan, blocks alone": {"schemes": BLOCKS, "latency": "fastest"},
    "plan, fastest": {"latency": "fastest"},
    "plan, 80 % of fp32's time, smallest": {"latency": "80%", "size": "smallest", "best_effort": True},
    "plan, 70 % of fp32's time": {"latency": "70%", "best_effort": True},
}
HELD_OUT = 21
TEST_SAMPLES = 50  # for SQNR


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt_char")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--limit", type=int, default=200, help="test samples that are scored")
    parser.add_argument("--only", nargs="*", default=list(REQUESTS), choices=list(REQUESTS))
    options = parser.parse_args()
    entry = zoo().load(options.model)
    given = arrays(entry, "calib", options.samples + HELD_OUT)
    with tempfile.TemporaryDirectory() as scratch:
        files, made = {"fp32": Path(entry.model)}, {"fp32": ""}
        files["static int8"] = static_int8(
            entry, arrays(entry, "calib", options.samples), Path(scratch) / "static.onnx"
        )
        made["static int8"] = ""
        for number, name in enumerate(options.only):
            files[name] = Path(scratch) / f"{number}.onnx"
            result = onnxmpq.convert(
                entry.model, calibration=given, samples=options.samples, output=files[name], **REQUESTS[name]
            )
            layers = Counter(s for n, s in result.plan.schemes.items() if s != "fp32" and _holds_weights(result, n))
            made[name] = ", ".join(f"{count} {scheme}" for scheme, count in layers.most_common())
        head = f"| {options.model} | ms | vs fp32 | MB | metric | SQNR dB | layers |"
        print(f"{machine()}\n\n{head}\n|{'---|' * 7}")
        _print_rows(entry, files, made, options.limit)


def _holds_weights(result: onnxmpq.Result, region: str) -> bool:
    return result.problem.model.region(region).layer is not None


def _print_rows(entry: Any, files: Mapping[str, Path], made: Mapping[str, str], limit: int) -> None:
    sessions = {name: session(path) for name, path in files.items()}
    one = {n: a[:1] for n, a in arrays(entry, "test", 1).items()}
    test = arrays(entry, "test", TEST_SAMPLES)
    rounds = interleaved_s([Call.of(s, one) for s in sessions.values()], Effort(seconds=10.0, rounds=20))
    for (name, path), times in zip(files.items(), rounds, strict=True):
        ratio = float(np.median(rounds[0] / times))
        metric = entry.score(lambda f, s=sessions[name]: s.run(None, f), limit)
        quality = "" if name == "fp32" else f"{sqnr_db(sessions['fp32'], sessions[name], test):.1f}"
        size = path.stat().st_size / 1e6
        figures = f"{times.min() * 1e3:.3f} | {ratio:.2f}x | {size:.2f} | {metric:.4f} | {quality}"
        print(f"| {name} | {figures} | {made[name]} |")


if __name__ == "__main__":
    main()
