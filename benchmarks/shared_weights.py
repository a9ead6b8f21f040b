"""Bytes of models whose layers share weights, against bytes of the distinct weights.

    python -m benchmarks.shared_weights [--layers 15]

An encoder whose layers have one set of weights, as initializers that all of them read, behind Identity or Transpose, or
as a copy each, as some exporters write them. Converted to 8 and 4 bits in storage and to int8 by a made-up cost table.
Prints the table of docs/any_model.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnxmpq
from onnxmpq.model import serialized_bytes
from tests.outcomes import QUICK
from tests.tables import int8_pays

WIDTH, INNER = 128, 512
SPELLINGS = ("one initializer", "behind Identity", "behind Transpose", "a copy for each layer")
GOALS: dict[str, dict[str, Any]] = {
    "w8": {"size": "smallest", "schemes": ["w8"]},
    "w4": {"size": "smallest", "schemes": ["w4"]},
    "int8": {"latency": "fastest", "schemes": ["int8"]},
}


def encoder(spelling: str, layers: int) -> onnx.ModelProto:
    """Layers of two products, a Relu and a residual sum; weights float32 [128, 512] and [512, 128]."""
    generator = np.random.default_rng(0)
    weights = {
        name: generator.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[0]))
        for name, shape in (("up", (WIDTH, INNER)), ("down", (INNER, WIDTH)))
    }
    nodes, constants, last = [], dict[str, np.ndarray](), "x"
    for number in range(layers):
        read = {}
        for name, values in weights.items():
            own = f"{name}{number}"
            if spelling == "a copy for each layer":
                constants[own], read[name] = values, own
            elif spelling == "one initializer":
                constants[name], read[name] = values, name
            else:
                turned = spelling == "behind Transpose"
                constants[name], read[name] = np.ascontiguousarray(values.T) if turned else values, own
                nodes.append(helper.make_node("Transpose" if turned else "Identity", [name], [own], f"{own}/read"))
        made = [f"{part}{number}" for part in ("h", "r", "m", "y")]
        nodes += [
            helper.make_node("MatMul", [last, read["up"]], [made[0]]),
            helper.make_node("Relu", [made[0]], [made[1]]),
            helper.make_node("MatMul", [made[1], read["down"]], [made[2]]),
            helper.make_node("Add", [made[2], last], [made[3]]),
        ]
        last = made[3]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", WIDTH]) for n in ("x", last)]
    stored = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "encoder", ends[:1], ends[1:], stored)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=15)
    layers = parser.parse_args().layers
    distinct = 4 * 2 * WIDTH * INNER
    print(f"{layers} layers, distinct weights {distinct / 1e3:.0f} kB in float32")
    print(f"| weights are | source, kB | {' | '.join(f'{goal}, kB' for goal in GOALS)} |")
    samples = {"x": np.random.default_rng(1).standard_normal((16, WIDTH)).astype(np.float32)}
    for spelling in SPELLINGS:
        proto, sizes = encoder(spelling, layers), []
        for goal, asked in GOALS.items():
            with tempfile.TemporaryDirectory() as folder:
                more = {"cost_table": int8_pays(proto, Path(folder))} if goal == "int8" else {}
                result = onnxmpq.convert(
                    proto, calibration=samples, effort=QUICK, cache=False, guard=False, **asked, **more
                )
            sizes.append(serialized_bytes(result.model))
            counted = sum(r.bytes or 0 for r in result.report.regions)
            assert counted < sizes[-1], "the report counts a shared weight once"
        cells = " | ".join(f"{size / 1e3:.0f} ({100 * size / distinct:.0f} %)" for size in sizes)
        print(f"| {spelling} | {serialized_bytes(proto) / 1e3:.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
