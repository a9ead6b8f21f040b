"""How long the solvers take on a synthetic network of 300 layers × 8 schemes with transitions, and how good they are.

    python -m benchmarks.solver_speed [--layers 300] [--seeds 3]

The network is residual: blocks of convolutions, every third block with a shortcut that an Add joins, every fifth with
two branches that a Concat joins, so that edges fork and meet. Each layer has all eight schemes; costs, effects and
transitions are random but of one piece (a layer's size decides the scale of all its costs); changes of format and of
layout cost on every edge. Goals: the fastest plan, and least effect at 60 % of fp32's latency, at 40 % of its size,
and at 60 % and 25 %. The baselines choose without transitions and are judged with them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx

from benchmarks.stages import machine, table_of
from onnxmpq.allocate import Limits, Option, Problem
from onnxmpq.allocate.problem import Goal, Solution
from onnxmpq.allocate.solvers import SOLVERS
from onnxmpq.cost.table import CostTable, Transition, edges_of
from onnxmpq.model import Layer, LayerWeight, Model, Region, RegionKind, WeightStore
from onnxmpq.runtimes import REFERENCE
from onnxmpq.schemes import SCHEMES, Scheme

EIGHT = ("fp32", "int8", "w4a8", "w8", "w4", "w4b32", "w4b128", "w8b128")
KERNEL_SPEED = {"fp32": 1.0, "int8": 0.3, "w4b32": 1.5, "w4b128": 1.1, "w8b128": 1.2}  # seconds relative to fp32


def network(layers: int) -> Model:
    """A residual network; regions only, without a graph behind them."""
    regions: list[Region] = []
    tensor, block = "x", 0
    while sum(r.kind is RegionKind.LAYER for r in regions) < layers:
        entry, block = tensor, block + 1
        for _ in range(2):
            tensor = _conv(regions, tensor)
        if block % 5 == 0:
            tensor = _join(regions, "Concat", tensor, _conv(regions, entry))
        elif block % 3 == 0:
            tensor = _join(regions, "Add", tensor, entry)
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [],
            "synthetic",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
            [onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)],
        )
    )
    return Model(WeightStore.of(proto), tuple(regions), {}, "", 0, 21)


def _conv(regions: list[Region], source: str) -> str:
    name = f"conv{len(regions)}"
    layer = Layer((LayerWeight(name, f"{name}.w", 1, (64, 64, 3, 3)),))
    regions.append(Region(name, "Conv", RegionKind.LAYER, (name,), (source,), (f"{name}.y",), layer))
    return f"{name}.y"


def _join(regions: list[Region], op_type: str, one: str, other: str) -> str:
    name = f"{op_type.lower()}{len(regions)}"
    regions.append(Region(name, op_type, RegionKind.ARITHMETIC, (name,), (one, other), (f"{name}.y",)))
    return f"{name}.y"


def instance(layers: int, seed: int) -> Problem:
    """The allocation problem with random costs. Seconds, bytes and nats of a CNN of about 1 ms per 30 layers."""
    generator, model = np.random.default_rng(seed), network(layers)
    rules = REFERENCE.rules(model, {t: 4 for r in model.regions for t in (*r.inputs, *r.outputs)})
    options = {r.name: _options(r, generator) for r in model.regions}
    node_s = {name: {o.scheme.name: o.latency_s for o in rows} for name, rows in options.items()}
    edges = edges_of(model)
    tensors = dict.fromkeys(e.tensor for e in edges)
    move = {t: Transition(*generator.lognormal(np.log(8e-6), 0.7, 2)) for t in tensors}
    own = {e.key: Transition(*generator.normal(2e-6, 3e-6, 2), **_reorders(generator)) for e in edges}
    activations = {t: float(generator.lognormal(np.log(1e-4), 1.5)) for t in tensors}
    return Problem(model, options, activations, CostTable(node_s, move, own, 1e-5, rules=rules), {"size": 1e4})


def _reorders(generator: np.random.Generator) -> dict[str, float]:
    return {side: float(generator.lognormal(np.log(4e-6), 0.7)) for side in ("into_layout_s", "out_of_layout_s")}


def _options(region: Region, generator: np.random.Generator) -> tuple[Option, ...]:
    if region.layer is None:
        seconds = generator.lognormal(np.log(1e-5), 0.5)
        return tuple(
            Option(SCHEMES[s], {"latency": seconds * f, "size": 100.0}) for s, f in (("fp32", 1.0), ("int8", 0.4))
        )
    seconds, parameters = generator.lognormal(np.log(3e-5), 0.8), generator.lognormal(np.log(4e4), 1.2)
    harm = generator.lognormal(np.log(1e-4), 1.5)
    speed = {kernel: seconds * factor * generator.lognormal(0.0, 0.3) for kernel, factor in KERNEL_SPEED.items()}
    return tuple(
        Option(s, {"latency": speed[s.kernel], "size": parameters * _bits(s) / 8}, harm * _noise(s, generator))
        for s in (SCHEMES[name] for name in EIGHT)
    )


def _bits(scheme: Scheme) -> float:
    return 32.0 if scheme.weight is None else scheme.weight.bits + 0.25


def _noise(scheme: Scheme, generator: np.random.Generator) -> float:
    return 0.0 if scheme.weight is None else 4.0 ** (4 - scheme.weight.bits) * float(generator.lognormal(0.0, 0.3))


CASES: dict[str, tuple[Goal, float | None, float | None]] = {
    "fastest": ("latency", None, None),
    "effect at 60 % latency": ("effect", 0.6, None),
    "effect at 40 % size": ("effect", None, 0.4),
    "effect at 60 % latency and 25 % size": ("effect", 0.6, 0.25),
}


def run(label: str, solver: str, problem: Problem, transitions: bool) -> tuple[Solution, float]:
    """A solution (empty where there is none) and the seconds it took."""
    goal, latency, size = CASES[label]
    limits = Limits(
        latency=None if latency is None else latency * problem.latency_s({}),
        size=None if size is None else size * problem.size_bytes({}),
    )
    start = time.perf_counter()
    found = SOLVERS[solver](problem, goal, limits, transitions=transitions)
    return found or Solution({}, np.inf, 0.0, 1.0, False), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        problem = instance(options.layers, seed)
        for label in CASES:
            exact, seconds = run(label, "milp", problem, True)
            cells = [seed, label, f"{seconds:.2f}", f"{exact.gap:.2%}"]
            for solver in ("greedy", "dynamic"):
                found, took = run(label, solver, problem, True)
                cells += [f"{took:.2f}", f"{found.value / exact.value:.2f}x" if found.value < np.inf else "none"]
            rows.append(cells)
            print(*cells, flush=True)
    count = len(problem.model.regions), len(problem.edges), sum(r.layer is not None for r in problem.model.regions)
    print(f"\n{machine()}; {count[2]} layers × 8 schemes, {count[0]} regions, {count[1]} edges\n")
    print(table_of(("seed", "goal", "milp s", "gap", "greedy s", "vs milp", "dynamic s", "vs milp"), rows))


if __name__ == "__main__":
    main()
