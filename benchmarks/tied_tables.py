"""An embedding whose table is the weight of the last layer: bytes of the file, memory and time of a session.

    python -m benchmarks.tied_tables [--rows 32000] [--width 256]

Each file is opened in a process of its own, after a session on a graph of one node. Memory is `RssAnon`, so Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from benchmarks.stages import machine
from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.model import Model, prepare
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.schemes import scheme_named

PAIRS = (
    ("fp32", "fp32"),
    *(("w8", "w8"), ("w4", "w4"), ("fp32", "w4b32"), ("w8", "w4b32"), ("w4", "w4b32"), ("w4b128", "w4b32")),
    *(("w4b32", "w4b32"), ("w4b128", "w4b128"), ("w8b128", "w8b128"), ("w4b32z", "w4b32z")),
)
"""Schemes of the table and of the last layer."""
RUNS = 30
_CHILD = """
import re, sys, time
import numpy as np, onnxruntime as ort
def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def opened(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
opened(sys.argv[2])
before = held()
session = opened(sys.argv[1])
loaded = held()
tokens, times = {"tokens": np.arange(8, dtype=np.int64)[None]}, []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    session.run(None, tokens)
    times.append(time.perf_counter() - start)
print(f"{loaded - before:.0f} / {held() - before:.0f} | {min(times) * 1e3:.2f}")
"""


def tied(rows: int, width: int) -> onnx.ModelProto:
    """Gather, Relu, and MatMul with the transposed table."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (int64[N, 8] tokens) => (float[N, 8, {rows}] y)
        {{ e = Gather (table, tokens) r = Relu (e) t = Transpose <perm = [1, 0]> (table) y = MatMul (r, t) }}"""
    )
    values = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(values, "table"))
    return proto


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=32000)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    model, rounded = prepare(tied(options.rows, options.width)), dict[str, QuantizedWeight]()
    print(f"{machine()}\n\n| table | last layer | file MB | memory MB, opened / run | ms |\n|---|---|---|---|---|")
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        small, file = Path(scratch) / "small.onnx", Path(scratch) / "tied.onnx"
        onnx.save(tied(8, 32), small)
        for pair in PAIRS:
            onnx.save(written(model, pair, rounded), file)
            command = [sys.executable, "-c", _CHILD, str(file), str(small), str(RUNS)]
            child = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            size = file.stat().st_size / 2**20
            print(f"| {pair[0]} | {pair[1]} | {size:.1f} | {child.stdout.strip()} |", flush=True)


def written(model: Model, pair: tuple[str, str], rounded: dict[str, QuantizedWeight]) -> onnx.ModelProto:
    """The model in these schemes. rounded: by format; both layers have the same weight."""
    assignment = {r.name: scheme_named(name) for r, name in zip(model.layers, pair, strict=True)}
    weights = {}
    for key, (region, place) in model.weights.items():
        if (wanted := assignment[region.name].weight) is not None:
            if wanted.name not in rounded:
                rounded[wanted.name] = quantize_weight(model.matrix(place), wanted)
            weights[key, wanted.name] = rounded[wanted.name]
    return DIALECTS["onnxruntime"].rewrite(Rewrite(model, assignment, {}, weights, model.roots))


if __name__ == "__main__":
    main()
