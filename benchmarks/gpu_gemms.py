"""Matrix products of the zoo's transformers in every scheme of a GPU target: measured beside the target's roofline.

    ONNXMPQ_ZOO=... python -m benchmarks.gpu_gemms --target h200 --provider TensorrtExecutionProvider --csv gemms.csv

For every shape [M, K] x [K, N] of vit_tiny and gpt_char, and once more with one row (a decoder's step): one MatMul is
spelled in the target's dialect, run by the provider interleaved with float32 in one process, and its minimum is printed
beside the roofline's prediction, both relative to float32. Needs an onnxruntime that has the provider. On the CPU
provider it runs too, and then only shows that it works: float8 is emulated there.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.zoo import arrays, zoo
from onnxmpq.context import Context
from onnxmpq.cost.measure import Effort, interleaved_s
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import OnnxmpqError
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu, candidates, observed_tensors
from onnxmpq.model import Model, prepare
from onnxmpq.provenance import describe_runtime
from onnxmpq.ranges import observe_ranges
from onnxmpq.runtimes import Call, SessionSettings, input_specs, open_session
from onnxmpq.schemes import Scheme
from onnxmpq.target import load_target, roofline_table
from onnxmpq.target.types import Target
from onnxmpq.workbench import prepare_bench

MODELS = ("vit_tiny", "gpt_char")


@dataclass(frozen=True)
class Row:
    """One product in one scheme. measured, predicted: relative to float32's time, smaller is faster."""

    m: int
    k: int
    n: int
    scheme: str
    measured_us: float
    measured: float
    predicted: float


def shapes_of(name: str) -> Iterator[tuple[int, int, int]]:
    """(M, K, N) of the layers of a zoo model, for one sample and for one row."""
    entry = zoo().load(name)
    model = prepare(entry.model)
    feeds = load_feeds(arrays(entry, "calib", 1), input_specs(open_session(model.proto)), limit=1)
    shapes = float_shapes(model, feeds)
    for region in model.layers:
        if region.op_type in ("MatMul", "Gemm"):
            layer = region.params
            rows = int(np.prod(shapes[region.inputs[0]])) // layer.fan_in
            yield from ((rows, layer.fan_in, layer.out_channels), (1, layer.fan_in, layer.out_channels))


def product(m: int, k: int, n: int) -> onnx.ModelProto:
    """y [M, N] = x [M, K] · w, w Gaussian."""
    weight = np.random.default_rng(k * n).normal(0.0, k**-0.5, (k, n)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def rows(device: Target, shape: tuple[int, int, int], settings: SessionSettings) -> list[Row]:
    """One row per scheme that the target offers for this product and the provider runs."""
    model = prepare(product(*shape))
    data = np.random.default_rng(0).normal(0.0, 1.0, shape[:2]).astype(np.float32)
    feeds = load_feeds({"x": data}, input_specs(open_session(model.proto)))
    dialect = DIALECTS[device.dialect]
    menu = candidates(model, device, dialect)
    schemes = [s for s in menu["product"] if not s.is_fp32]
    table = roofline_table(model, device, float_shapes(model, feeds), menu).node_s["product"]
    found = []
    for scheme in schemes:
        try:
            before_s, after_s = time_scheme(model, scheme, device, feeds, settings)
        except OnnxmpqError as error:
            print(f"{shape} {scheme.name}: {error}", file=sys.stderr)
            continue
        predicted = table[scheme.name] / table["fp32"]
        found.append(Row(*shape, scheme.name, after_s * 1e6, after_s / before_s, predicted))
    return found


def time_scheme(
    model: Model, scheme: Scheme, device: Target, feeds: Feeds, settings: SessionSettings
) -> tuple[float, float]:
    """Seconds of the product in float32 and in the scheme, interleaved."""
    menu, dialect, silent = Menu({"product": (scheme,)}), DIALECTS[device.dialect], Context()
    observation = observe_ranges(model, observed_tensors(model, menu), feeds, silent)
    bench = prepare_bench(model, menu, observation, dialect, silent)
    sessions = [open_session(m, settings) for m in (model.proto, bench.build({"product": scheme}))]
    calls = [Call.of(s, feeds.batch([0])) for s in sessions]
    before, after = interleaved_s(calls, Effort(seconds=1.0, runs=50, rounds=5))
    return float(before.min()), float(after.min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--target", default="h200")
    parser.add_argument("--provider", default="TensorrtExecutionProvider")
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    device, settings = load_target(given.target), SessionSettings(provider=given.provider)
    shapes = sorted({shape for name in given.models for shape in shapes_of(name)})
    versions = ", ".join(f"{k} {v}" for k, v in describe_runtime().items())
    print(f"{device.description}; {given.provider}, {versions}, {datetime.date.today()}\n")
    print("| M | K | N | scheme | us | of fp32, measured | of fp32, roofline |\n|---|---|---|---|---|---|---|")
    table = []
    for shape in shapes:
        for row in rows(device, shape, settings):
            table.append(asdict(row))
            print(
                f"| {row.m} | {row.k} | {row.n} | {row.scheme} | {row.measured_us:.1f} | {row.measured:.2f} "
                f"| {row.predicted:.2f} |",
                flush=True,
            )
    if given.csv and table:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
