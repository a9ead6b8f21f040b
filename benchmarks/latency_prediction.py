"""Predicted against measured latency of random mixed plans that profiling never saw.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.latency_prediction [MODEL ...] [--plans 20] [--csv points.csv]
        [--plot docs/latency_prediction.png] [--out table.md]
    python -m benchmarks.latency_prediction --again points.csv [--plot docs/latency_prediction.png] [--out table.md]

The first form profiles every model as `onnxmpq.convert` does, draws plans with a seed of its own, predicts each from
the cost table, builds it and measures it interleaved with fp32 in one process, one thread. It prints the median and
the 90th percentile of |predicted / measured − 1| per model and writes the points to the CSV file, model by model. The
second form makes table and scatter plot of such a file. Plots need matplotlib (extra `benchmarks`). Run it on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.stages import Profiled, machine, models, profiled, show, table_of
from onnxmpq.cost.measure import Effort
from onnxmpq.cost.sampler import random_plan

SEED = 20_211_017  # profiling draws its plans with seed 0
EFFORT = Effort(seconds=0.8, runs=12, rounds=6)
COLUMNS = ("model", "predicted_ms", "measured_ms", "fp32_ms", "profiling_s")
Point = tuple[str, float, float, float, float]


def points_of(ready: Profiled, plans: int) -> list[Point]:
    """One point per random plan, as in COLUMNS."""
    generator, fp32_ms = np.random.default_rng(SEED), ready.profiler.reference_s * 1e3
    points = []
    for _ in range(plans):
        plan = random_plan(ready.model, ready.menu, ready.rules, generator)
        predicted, measured = ready.table.predict_s(ready.model, plan), ready.measured_s([plan], EFFORT)[0]
        points.append((ready.name, predicted * 1e3, measured * 1e3, fp32_ms, ready.profiling_s))
    return points


def row_of(name: str, points: list[Point]) -> list[str]:
    """A line of the table: errors, bias, and the range of what was measured."""
    predicted, measured = np.array([p[1:3] for p in points]).T
    error = np.abs(predicted / measured - 1.0)
    return [
        name,
        f"{points[0][3]:.3f}",
        f"{measured.min():.3f} – {measured.max():.3f}",
        f"{np.median(error):.1%}",
        f"{np.quantile(error, 0.9):.1%}",
        f"{np.median(predicted / measured) - 1.0:+.1%}",
        f"{points[0][4]:.0f}",
    ]


def plot(points: list[Point], destination: Path) -> None:
    """Predicted over measured, both relative to fp32, one colour per model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (optional, for --plot only)
    from matplotlib.figure import Figure  # noqa: PLC0415 (optional, for --plot only)

    figure = Figure(figsize=(6, 6))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, group in by_model(points).items():
        share = np.array([(p[2] / p[3], p[1] / p[3]) for p in group])
        axes.scatter(share[:, 0], share[:, 1], s=14, alpha=0.8, label=name)
    low, high = axes.get_xlim()
    line = np.array([low, high])
    axes.plot(line, line, color="grey", linewidth=0.8)
    axes.fill_between(line, 0.88 * line, 1.12 * line, color="grey", alpha=0.12, label="±12 %", linewidth=0)
    axes.set(xlabel="measured latency / fp32", ylabel="predicted latency / fp32", xlim=(low, high))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(destination, dpi=110, metadata={"Software": None})


def by_model(points: list[Point]) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        groups[point[0]].append(point)
    return dict(groups)


def read(path: Path) -> list[Point]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [(r[0], float(r[1]), float(r[2]), float(r[3]), float(r[4])) for r in rows]


def write(path: Path, points: list[Point]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *((p[0], *(f"{v:.5f}" for v in p[1:])) for p in points)])


def measure(wanted: list[str], plans: int, destination: Path | None) -> list[Point]:
    """Points of all models; the file holds those of the models done so far."""
    points: list[Point] = []
    for name in models(wanted):
        found = points_of(profiled(name), plans)
        points += found
        print(" ".join(row_of(name, found)), flush=True)
        if destination:
            write(destination, points)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--csv", type=Path, help="write the points there")
    parser.add_argument("--again", type=Path, help="points of an earlier run, instead of measuring")
    parser.add_argument("--plot", type=Path, help="write the scatter plot there")
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    points = read(options.again) if options.again else measure(options.models, options.plans, options.csv)
    rows = [row_of(name, group) for name, group in by_model(points).items()]
    table = table_of(("model", "fp32 ms", "plans measured ms", "median error", "90 %", "bias", "profiling s"), rows)
    show(table if options.again else f"{machine()}\n\n{table}", options.out)
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
