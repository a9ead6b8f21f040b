"""Weights in bodies of If, Loop and Scan: size, latency on one thread, and SQNR in 8 and 4 bits, rounded to nearest.

    python -m benchmarks.bodies

Random weights and inputs. Runs of the schemes alternate; the least of each counts. "outside": the same 8 bits, unfolded
in the graph around the bodies, as before `model/sink.py` puts them back. Prints the table of docs/any_model.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from unittest.mock import patch

import numpy as np
import onnx

from onnxmpq.dialects import DIALECTS, Rewrite, writer
from onnxmpq.model import prepare, serialized_bytes
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import open_session, run
from onnxmpq.schemes import SCHEMES
from tests.bodies import by_rate, convolutions_by_branch, loop_with_lstm, scan_of_a_gated_cell
from tests.graphs import Array

MODELS = {
    "Loop of 20 steps with an LSTM, 256 states": loop_with_lstm(256, 20),
    "If with a Conv of 64 channels in each branch": convolutions_by_branch(64, 28),
    "Scan over 50 steps of a gated cell, 256 states": scan_of_a_gated_cell(256, 128, 50),
    "If with an LSTM or a GRU, 256 states": by_rate(256),
}
RUNS = 60


def variants(proto: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    model, dialect, found = prepare(proto), DIALECTS["onnxruntime"], {"fp32": proto}
    for name in ("w8", "w4"):
        scheme = SCHEMES[name]
        assert scheme.weight is not None
        weights = {
            (k, scheme.weight.name): quantize_weight(model.matrix(w), scheme.weight)
            for k, (_, w) in model.weights.items()
        }
        job = Rewrite(model, dict.fromkeys(model.weights, scheme), {}, weights, {})
        found[name] = dialect.rewrite(job)
        if name == "w8":
            with patch.object(writer, "sink"):
                found["w8, outside"] = dialect.rewrite(job)
    return found


def inputs_of(proto: onnx.ModelProto) -> dict[str, Array]:
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    generator = np.random.default_rng(1)
    values: dict[str, Array] = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items() if s}
    return values | ({"rate": np.array(16000, np.int64)} if "rate" in shapes else {})


def measured(
    protos: Mapping[str, onnx.ModelProto], feed: dict[str, Array]
) -> tuple[dict[str, float], dict[str, Array]]:
    """Seconds of a run, and the first output."""
    sessions = {name: open_session(proto) for name, proto in protos.items()}
    made = {name: run(session, feed)[0] for name, session in sessions.items()}
    seconds = dict.fromkeys(sessions, np.inf)
    for _ in range(RUNS):
        for name, session in sessions.items():
            start = time.perf_counter()
            run(session, feed)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, made


def main() -> None:
    """Print the table."""
    print("| model | scheme | kB | ms | against fp32 | SQNR |\n|---|---|---|---|---|---|")
    for what, proto in MODELS.items():
        protos = variants(proto)
        seconds, made = measured(protos, inputs_of(proto))
        for name, each in protos.items():
            noise = np.square(made[name] - made["fp32"]).sum()
            sqnr = f"{10 * np.log10(np.square(made['fp32']).sum() / noise):.1f} dB" if noise else ""
            ratio, size = seconds[name] / seconds["fp32"], serialized_bytes(each) / 1e3
            print(f"| {what} | {name} | {size:.0f} | {seconds[name] * 1e3:.3f} | {ratio:.2f} | {sqnr} |", flush=True)


if __name__ == "__main__":
    main()
