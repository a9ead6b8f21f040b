"""Weights in blocks everywhere, at accuracy level 0 and 4, and plans that choose for each layer.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.accuracy_levels [MODEL] [--plans] [--samples 64] [--limit 100]

Everywhere: all layers that take the scheme, rounded to nearest. --plans: also conversions, on the same calibration
samples. All files are timed in one process, interleaved, one thread, and scored on the first test samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

import onnxmpq
from benchmarks.stages import machine
from benchmarks.zoo import arrays, session, sqnr_db, zoo
from onnxmpq.cost import Effort
from onnxmpq.cost.measure import interleaved_s
from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.model import Model, prepare
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import Call
from onnxmpq.schemes import scheme_named

EVERYWHERE = ("w4b32-level0", "w4b32", "w4b32z", "w4b128-level0", "w4b128", "w8b32", "w8b128")
PLANS: Mapping[str, Mapping[str, Any]] = {
    "plan of blocks alone": {"schemes": EVERYWHERE, "latency": "fastest", "best_effort": True},
    "plan, fastest": {"latency": "fastest"},
    "plan, fastest within 25% of the bytes": {"latency": "fastest", "size": "25%", "best_effort": True},
}
HELD_OUT = 21
TEST_SAMPLES = 30  # for SQNR


def everywhere(model: Model, name: str) -> onnx.ModelProto:
    """The model with all layers that multiply in one scheme."""
    dialect, scheme = DIALECTS["onnxruntime"], scheme_named(name)
    assert scheme.weight is not None
    taking = [r for r in model.layers if not r.operator.looks_up and dialect.supports(r, scheme, model.opset)]
    weights = {
        (place.key, scheme.weight.name): quantize_weight(model.matrix(place), scheme.weight)
        for region in taking
        for place in region.params.weights
    }
    return dialect.rewrite(Rewrite(model, {r.name: scheme for r in taking}, {}, weights, model.roots))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt_char")
    parser.add_argument("--plans", action="store_true")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--limit", type=int, default=100, help="test samples that are scored")
    options = parser.parse_args()
    entry = zoo().load(options.model)
    model, given = prepare(entry.model), arrays(entry, "calib", options.samples + HELD_OUT)
    made = {"fp32": onnx.load(entry.model), **{name: everywhere(model, name) for name in EVERYWHERE}}
    for name, asked in PLANS.items() if options.plans else ():
        made[name] = onnxmpq.convert(entry.model, calibration=given, samples=options.samples, **asked).model
    print(f"{machine()}\n\n| {options.model} | ms | vs fp32 | MB | metric | SQNR dB |\n|{'---|' * 6}")
    sessions, test = {name: session(proto) for name, proto in made.items()}, arrays(entry, "test", TEST_SAMPLES)
    one = {n: a[:1] for n, a in test.items()}
    rounds = interleaved_s([Call.of(s, one) for s in sessions.values()], Effort(seconds=10.0, rounds=20))
    for (name, opened), times in zip(sessions.items(), rounds, strict=True):
        ratio, size = float(np.median(rounds[0] / times)), made[name].ByteSize() / 1e6
        metric = entry.score(lambda f, s=opened: s.run(None, f), options.limit)
        quality = "" if name == "fp32" else f"{sqnr_db(sessions['fp32'], opened, test):.1f}"
        print(
            f"| {name} | {times.min() * 1e3:.2f} | {ratio:.2f}x | {size:.2f} | {metric:.4f} | {quality} |", flush=True
        )


if __name__ == "__main__":
    main()
