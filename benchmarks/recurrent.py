"""LSTM, GRU and RNN in their schemes: size, latency on one thread, and SQNR, on random weights and inputs.

    python -m benchmarks.recurrent

Runs of the schemes alternate; the least of each counts. Weights have the spread 1/√inputs, so that gates are neither
shut nor wide open. Prints the table of docs/recurrent.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.deployment import DeployCpu, scheme_for
from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.model import prepare, serialized_bytes
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.schemes import FP32, SCHEMES
from onnxmpq.weights import pair_bound

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
NAMES = (FP32, "w8", "w4", "int8-dynamic")
RUNS = 30


@dataclass(frozen=True)
class Shape:
    """inputs, hidden: sizes of a step and of the state."""

    op: str
    inputs: int
    hidden: int
    steps: int
    batch: int = 1
    directions: int = 1

    @property
    def proto(self) -> onnx.ModelProto:
        generator, rows, d = np.random.default_rng(0), GATES[self.op] * self.hidden, self.directions
        sizes = {"w": (d, rows, self.inputs), "r": (d, rows, self.hidden)}
        weights = [
            numpy_helper.from_array((generator.standard_normal(s) / np.sqrt(s[-1])).astype(np.float32), name)
            for name, s in sizes.items()
        ]
        direction = "bidirectional" if d == 2 else "forward"
        node = helper.make_node(self.op, ["x", *sizes], ["y"], "layer", hidden_size=self.hidden, direction=direction)
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.steps, self.batch, self.inputs])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [self.steps, d, self.batch, self.hidden])
        graph = helper.make_graph([node], "g", [x], [y], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


SHAPES = (
    Shape("LSTM", 40, 64, 50),
    Shape("LSTM", 64, 128, 50, directions=2),
    Shape("LSTM", 256, 256, 50, directions=2),
    Shape("LSTM", 512, 512, 30),
    Shape("LSTM", 512, 512, 30, batch=8),
    Shape("LSTM", 512, 512, 1),
    Shape("GRU", 256, 256, 50, directions=2),
    Shape("RNN", 256, 256, 50, directions=2),
)


def variants(shape: Shape) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The layer in every scheme that it can have, with weights that are exact on every CPU."""
    model, dialect = prepare(shape.proto), DIALECTS["onnxruntime"]
    [region] = model.layers
    for name in NAMES:
        scheme = scheme_for(region, SCHEMES[name], DeployCpu.ANY)
        if not dialect.supports(region, scheme, model.opset):
            continue
        form = scheme.weight
        weights = {
            (key, form.name): quantize_weight(model.matrix(w), form, bound=pair_bound(region, w, form))
            for key, (_, w) in model.weights.items()
            if form is not None
        }
        yield name, dialect.rewrite(Rewrite(model, {region.name: scheme}, {}, weights, {}))


def main() -> None:
    print("| layer | scheme | kB | ms | against fp32 | SQNR |\n|---|---|---|---|---|---|")
    for shape in SHAPES:
        protos = dict(variants(shape))
        sessions = {name: open_session(proto, SessionSettings()) for name, proto in protos.items()}
        generator = np.random.default_rng(1)
        feed = {"x": generator.standard_normal((shape.steps, shape.batch, shape.inputs)).astype(np.float32)}
        made = {name: run(session, feed)[0] for name, session in sessions.items()}
        seconds = dict.fromkeys(sessions, np.inf)
        for _ in range(RUNS):
            for name, session in sessions.items():
                start = time.perf_counter()
                run(session, feed)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
        what = f"{shape.op}, {shape.inputs} to {shape.hidden}, {shape.directions} direction(s), {shape.steps} steps"
        what += f", batch {shape.batch}" if shape.batch > 1 else ""
        for name, proto in protos.items():
            noise = np.square(made[name] - made[FP32]).sum()
            sqnr = f"{10 * np.log10(np.square(made[FP32]).sum() / noise):.1f} dB" if noise else ""
            ratio, size = seconds[name] / seconds[FP32], serialized_bytes(proto) / 1e3
            print(f"| {what} | {name} | {size:.0f} | {seconds[name] * 1e3:.3f} | {ratio:.2f} | {sqnr} |", flush=True)


if __name__ == "__main__":
    main()
