"""Quality at 4 bits: files of at most 0.6 times the size of onnxruntime's static int8 (mobilenet: 0.75).

    ONNXMPQ_ZOO=... python -m benchmarks.small_files [MODEL ...] [--samples 64] [--limit 400] [--latency] [--keep DIR]

Per model: fp32, onnxruntime's static int8 (64 calibration samples; min-max and percentile ranges, percentile from as
many samples as fit 1.5 GB, since it holds all their activations), and one conversion
to that share of static int8's size. With --latency the conversion also gets a latency budget: static int8's share of
fp32's latency, measured side by side first, and 3 % more; that takes a quiet machine. Without it the conversion is free
to compute in float32. Metrics are taken on test samples that calibration never saw, divergence on the first 200 of
them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxmpq
from benchmarks.zoo import arrays, session, static_int8, zoo
from onnxmpq.cost.measure import Effort, interleaved_s
from onnxmpq.errors import OnnxmpqError
from onnxmpq.execution import tensor_shapes
from onnxmpq.feeds import load_feeds
from onnxmpq.model import prepare
from onnxmpq.runtimes import Call, SessionSettings, input_specs
from onnxmpq.sensitivity import Evaluator
from onnxmpq.sensitivity.effects import make_divergence

SHARES = {"mobilenet_v1_0.25": 0.75}
SHARE = 0.6
STATIC_SAMPLES = 64
PERCENTILE_BYTES = 1.5e9
DIVERGENCE_SAMPLES = 200
LATENCY_SLACK = 1.03
DEFAULT_MODELS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "vit_tiny", "gpt_char", "yolov8n")


class Bench:
    """One model of the zoo and what scores its quantized versions."""

    def __init__(self, name: str, limit: int) -> None:
        self.entry, self.limit = zoo().load(name), limit
        self.fp32 = session(self.entry.model)
        unseen = load_feeds(arrays(self.entry, "test", DIVERGENCE_SAMPLES), input_specs(self.fp32))
        model = prepare(self.entry.model)
        divergence, _ = make_divergence(model, unseen, 1, threads=1, kinds={})
        self.evaluator = Evaluator.of(model, divergence, unseen, SessionSettings())
        tensors = [t for r in model.regions for t in r.outputs]
        self.activation_bytes = 4 * sum(int(np.prod(s)) for s in tensor_shapes(model, unseen, tensors).values())

    def row(self, what: str, path: Path, reference: Path | None) -> str:
        opened = session(path)
        metric = self.entry.score(lambda feeds: opened.run(None, feeds), self.limit)
        divergence = 0.0 if reference is None else self.evaluator.loss(onnx.load(path))
        size = path.stat().st_size
        share = "" if reference is None else f"{size / reference.stat().st_size:.2f}x"
        return f"| {self.entry.name} | {what} | {size / 1e6:.3f} | {share} | {metric:.4f} | {divergence:.4f} |"


def static_share(bench: Bench, static: Path, sample: Mapping[str, np.ndarray]) -> float:
    """Latency of static int8 relative to fp32, timed side by side."""
    calls = [Call.of(s, dict(sample)) for s in (session(static), bench.fp32)]
    times = interleaved_s(calls, Effort(seconds=6.0, runs=40, rounds=10))
    return float(np.median(times[0] / times[1]))


def convert(
    bench: Bench,
    static: Path,
    folder: Path,
    samples: int,
    latency: bool,
    budget: str | None,
    options: Mapping[str, Any],
) -> tuple[Path, str]:
    """(converted file, how) at the share of static int8's size."""
    share = SHARES.get(bench.entry.name, SHARE)
    limit = int(static.stat().st_size * share)
    calibration = arrays(bench.entry, "calib", samples + samples // 3)
    budgets: dict[str, Any] = {"size": f"{limit}B", **({"latency": budget} if budget else {})}
    if latency:
        allowed = static_share(bench, static, {n: a[:1] for n, a in calibration.items()}) * LATENCY_SLACK
        budgets["latency"] = f"{100 * allowed:.1f}%"
    output, start = folder / f"{bench.entry.name}.small.onnx", time.perf_counter()
    result = onnxmpq.convert(
        bench.entry.model, calibration=calibration, samples=samples, output=output, **budgets, **options
    )
    seconds = time.perf_counter() - start
    layers = ", ".join(f"{count} {scheme}" for scheme, count in result.report.coverage.layers.items())
    spelled = ", ".join(f"{k} {v}" for k, v in budgets.items())
    return output, f"onnxmpq, {samples} samples, {spelled} ({layers}; {seconds:.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=DEFAULT_MODELS)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--limit", type=int, default=400, help="test samples for the metric")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--target", default="cpu", help="a modelled target: nothing is timed while converting")
    parser.add_argument("--budget", help="latency budget relative to fp32, as 60%%, instead of static int8's")
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("| model | | MB | of static | metric | divergence |\n|---|---|---|---|---|---|", flush=True)
    for name in options.models:
        bench = Bench(name, options.limit)
        print(bench.row("fp32", bench.entry.model, None), flush=True)
        samples, static = arrays(bench.entry, "calib", STATIC_SAMPLES), folder / f"{name}.minmax.onnx"
        for ranges in ("minmax", "percentile"):
            file = folder / f"{name}.{ranges}.onnx"
            if not file.exists():
                most = STATIC_SAMPLES if ranges == "minmax" else max(int(PERCENTILE_BYTES / bench.activation_bytes), 1)
                static_int8(bench.entry, {n: a[:most] for n, a in samples.items()}, file, ranges)
            print(bench.row(f"static int8, {ranges}", file, static), flush=True)
        extra: dict[str, Any] = {"without": options.without, "target": options.target}
        try:
            file, how = convert(bench, static, folder, options.samples, options.latency, options.budget, extra)
        except OnnxmpqError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        print(bench.row(how, file, static), flush=True)


if __name__ == "__main__":
    main()
