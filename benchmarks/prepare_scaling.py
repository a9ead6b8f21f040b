"""Time to prepare graphs of more and more nodes, and the exponent that fits it: 1 is linear, 2 quadratic.

    python -m benchmarks.prepare_scaling [--sizes 1000 2000 4000 8000] [--repeats 3] [--profile]

A graph is a chain of blocks of mixed operators (Conv, BatchNormalization, Relu, Add, Mul, Reshape, MatMul, Sigmoid)
with a skip connection each, and constants that are computed by Constant nodes, as exporters write them.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model import find_regions, prepare

CHANNELS, SIDE = 4, 4


def chain(count: int) -> onnx.ModelProto:
    """A graph of about `count` nodes, opset 17, input float32 [N, 4, 4, 4]."""
    generator = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, *shape: int) -> str:
        values = (generator.random(shape) / max(np.prod(shape[1:]), 1)).astype(np.float32)
        constants.append(numpy_helper.from_array(values, name))
        return name

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    shape = numpy_helper.from_array(np.array([-1, CHANNELS, SIDE, SIDE], np.int64))
    last, block = "x", 0
    while len(nodes) < count - 2:
        b, given = f"b{block}", last
        weight = constant(f"{b}/w", CHANNELS, CHANNELS, 3, 3)
        last = node("Conv", [last, weight, constant(f"{b}/b", CHANNELS)], f"{b}/conv", pads=[1, 1, 1, 1])
        norm = [constant(f"{b}/{part}", CHANNELS) for part in ("scale", "offset", "mean", "variance")]
        last = node("BatchNormalization", [last, *norm], f"{b}/norm")
        last = node("Relu", [last], f"{b}/relu")
        last = node("Reshape", [last, node("Constant", [], f"{b}/shape", value=shape)], f"{b}/reshape")
        last = node("MatMul", [last, constant(f"{b}/m", SIDE, SIDE)], f"{b}/matmul")
        last = node("Add", [last, constant(f"{b}/a", SIDE)], f"{b}/add")
        last = node("Mul", [node("Sigmoid", [last], f"{b}/sigmoid"), last], f"{b}/silu")
        last = node("Add", [last, given], f"{b}/skip")
        block += 1
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", CHANNELS, SIDE, SIDE]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def fastest_s(function: Callable[[], object], repeats: int) -> float:
    """Shortest of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope of log time over log size, least squares."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where the largest graph's time goes")
    options = parser.parse_args()
    prepare_s, regions_s = [], []
    print(f"{'nodes':>8} {'prepare s':>10} {'regions s':>10} {'look-ups s':>10}")
    for size in options.sizes:
        proto = chain(size)
        model = prepare(proto)
        prepare_s.append(fastest_s(lambda proto=proto: prepare(proto), options.repeats))  # type: ignore[misc]
        structure = model.structure
        regions_s.append(fastest_s(lambda g=structure: find_regions(g), options.repeats))  # type: ignore[misc]
        start = time.perf_counter()
        for region in model.regions:
            model.region(region.name)
            model.producers.get(region.outputs[0])
        looked_s = time.perf_counter() - start
        print(f"{len(proto.graph.node):8d} {prepare_s[-1]:10.2f} {regions_s[-1]:10.2f} {looked_s:10.2f}", flush=True)
    if len(options.sizes) > 1:
        print(f"exponent: prepare {exponent(options.sizes, prepare_s):.2f}, {exponent(options.sizes, regions_s):.2f}")
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(prepare, chain(options.sizes[-1]))
        pstats.Stats(profile).sort_stats("cumulative").print_stats(35)


if __name__ == "__main__":
    main()
