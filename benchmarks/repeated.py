"""The same conversion again and again on this machine: does each end in a file that holds its budget?

    python -m benchmarks.repeated [--runs 20] [--model samples/digits_cnn.onnx ...]

Per model: `--latency fastest` so many times, then as many times a latency of 110 % of the best result of those,
relative to the original. Rounded weights and effects are kept between runs, timings are not. Each file's ratio to the
original is then measured once more, interleaved. A run counts as held where that ratio is within the budget.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import onnxmpq
from onnxmpq.cost.measure import Effort
from onnxmpq.errors import OnnxmpqError
from onnxmpq.feeds import load_feeds
from onnxmpq.profiling import timings
from onnxmpq.quality import time_side_by_side
from onnxmpq.runtimes import SessionSettings, input_specs, open_session

SAMPLES = Path(__file__).parents[1] / "samples"
ROOM = 1.10
AGAIN = Effort(seconds=2.0, runs=40, rounds=10)


def repeated(model: Path, latency: str, runs: int, folder: Path, limit: float) -> list[float]:
    """Convert and measure again; prints a row, returns the measured ratios."""
    feeds = load_feeds(SAMPLES / "digits_calib.npz", input_specs(open_session(model)))
    ends: Counter[str] = Counter()
    ratios, said, start = [], [], time.perf_counter()
    for _ in range(runs):
        output = folder / "out.onnx"
        try:
            result = onnxmpq.convert(
                model, latency=latency, calibration=SAMPLES / "digits_calib.npz", output=output, cache=folder / "cache"
            )
        except OnnxmpqError as error:
            ends[f"exit code {error.exit_code}"] += 1
            print(f"  {error}")
            continue
        ends[f"file, {result.report.verdict.level}"] += 1
        said.append(result.plan.measured["latency_ms"] / result.plan.measured["original_latency_ms"])
        ratios.append(time_side_by_side(model, output, feeds, SessionSettings(), AGAIN).ratio)
        output.unlink()
    held = sum(r <= limit for r in ratios)
    seconds = (time.perf_counter() - start) / runs
    spread = " / ".join(f"{v:.3f}" for v in (min(ratios), float(np.median(ratios)), max(ratios))) if ratios else ""
    plan = " / ".join(f"{v:.3f}" for v in (min(said), float(np.median(said)), max(said))) if said else ""
    counted = ", ".join(f"{count} {end}" for end, count in ends.items())
    print(f"| {model.stem} | {latency} | {counted} | {plan} | {spread} | {held} | {seconds:.1f} |", flush=True)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--model", type=Path, action="append")
    options = parser.parse_args()
    timings.KEPT_S = 0.0  # every run measures for itself
    print("| model | latency | ends in | in the plan: least / median / most | measured again | held | s each |")
    print("|---|---|---|---|---|---|---|")
    for model in options.model or (SAMPLES / "digits_cnn.onnx", SAMPLES / "digits_transformer.onnx"):
        with tempfile.TemporaryDirectory() as folder:
            ratios: list[Any] = repeated(model, "fastest", options.runs, Path(folder), 1.0)
            limit = ROOM * min(ratios)
            repeated(model, f"{limit:.2%}", options.runs, Path(folder), limit)


if __name__ == "__main__":
    main()
