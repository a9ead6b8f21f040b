"""Random small allocation problems, and their solution by trying every assignment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
from hypothesis import strategies as st

from onnxmpq.allocate import Limits, Option, Problem
from onnxmpq.cost.chains import legalize
from onnxmpq.cost.table import CostTable, Transition, edges_of
from onnxmpq.execution import tensor_shapes
from onnxmpq.model import Model
from onnxmpq.runtimes import REFERENCE, Rules
from onnxmpq.schemes import SCHEMES, Scheme
from tests.graphs import feeds_for, graph, prepared

TOLERANCE = 2e-3  # the solver's gap, and its tie-break between plans of equal value


def chain() -> onnx.ModelProto:
    return graph(
        """a = Conv <kernel_shape = [1, 1]> (x, w)
           b = MaxPool <kernel_shape = [1, 1]> (a)
           c = Conv <kernel_shape = [1, 1]> (b, w)
           d = Sigmoid (c)
           y = Conv <kernel_shape = [1, 1]> (d, w)""",
        "float[N, 4, 2, 2] x",
        "float[N, 4, 2, 2] y",
        "float[4, 4, 1, 1] w",
    )


def residual() -> onnx.ModelProto:
    return graph(
        """a = Conv <kernel_shape = [1, 1]> (x, w)
           b = Conv <kernel_shape = [1, 1]> (a, w)
           c = Add (b, a)
           p = MaxPool <kernel_shape = [1, 1]> (c)
           d = Concat <axis = 1> (p, b)
           y = GlobalAveragePool (d)""",
        "float[N, 4, 2, 2] x",
        "float[N, 8, 1, 1] y, float[N, 4, 2, 2] c",
        "float[4, 4, 1, 1] w",
    )


def attention() -> onnx.ModelProto:
    return graph(
        """q = MatMul (x, w)
           k = MatMul (x, w)
           t = Transpose <perm = [0, 2, 1]> (k)
           s = MatMul (q, t)
           m = Softmax (s)
           o = MatMul (m, x)
           y = MatMul (o, w)""",
        "float[N, 3, 4] x",
        "float[N, 3, 4] y",
        "float[4, 4] w",
    )


GRAPHS = {"chain": chain, "residual": residual, "attention": attention}


@dataclass(frozen=True)
class Shape:
    """What does not change between problems on one graph."""

    model: Model
    rules: Rules


@cache
def shape(name: str) -> Shape:
    proto = GRAPHS[name]()
    model = prepared(proto)
    tensors = list(dict.fromkeys(t for r in model.regions for t in (*r.inputs, *r.outputs)))
    ranks = {t: len(s) for t, s in tensor_shapes(model, feeds_for(proto), tensors).items()}
    return Shape(model, REFERENCE.rules(model, ranks))


def random_problem(name: str, seed: int, *, negative: bool = True, layouts: bool = True) -> Problem:
    """Costs of about one millisecond, transitions of about a third; some transitions gain time."""
    generator = np.random.default_rng(seed)
    found = shape(name)

    def some(low: float = 0.0, high: float = 1.0) -> float:
        return float(generator.uniform(low, high))

    def transition(low: float) -> Transition:
        quantize, dequantize, into_layout, out_of_layout = (some(low, 0.3) * 1e-3 for _ in range(4))
        return Transition(quantize, dequantize, into_layout * layouts, out_of_layout * layouts)

    options: dict[str, tuple[Option, ...]] = {}
    node_s: dict[str, dict[str, float]] = {}
    for region in found.model.regions:
        names = ["fp32", "int8"] if region.layer is None else ["fp32", "int8", "w4a8", "w4"][: generator.integers(2, 5)]
        node_s[region.name] = {n: some(0.1) * 1e-3 for n in names}
        options[region.name] = tuple(
            Option(
                SCHEMES[n],
                {
                    "latency": node_s[region.name][n],
                    "size": (10_000 if n == "fp32" else round(some(2e3, 6e3))) if region.layer else 0,
                },
                0.0 if n == "fp32" or not region.layer else some() * 0.1,
            )
            for n in names
        )
    low = -0.2 if negative else 0.0
    edges = edges_of(found.model)
    table = CostTable(
        node_s,
        {e.tensor: Transition(some() * 2e-4, some() * 2e-4) for e in edges if generator.random() < 0.5},
        {e.key: transition(low) for e in edges if generator.random() < 0.8},
        base_s=some() * 1e-3,
        rules=found.rules,
    )
    tensors = dict.fromkeys(t for r in found.model.regions for t in (*r.inputs, *r.outputs))
    roots = found.model.roots
    activations = {t: some() * 0.05 for t in tensors if t not in roots}
    return Problem(found.model, options, activations, table, {"size": 1_000.0})


def with_energies(problem: Problem, seed: int, timeless: bool) -> Problem:
    """The same problem with joules for everything; timeless: its transitions cost energy only."""
    generator = np.random.default_rng(seed)

    def energetic(transition: Transition) -> Transition:
        quantize_j, dequantize_j = (float(generator.uniform(0.0, 0.3)) for _ in range(2))
        if timeless:
            transition = Transition()
        return replace(transition, quantize_j=quantize_j, dequantize_j=dequantize_j)

    node_j = {r: {o.scheme.name: float(generator.uniform(0.1, 1)) for o in row} for r, row in problem.options.items()}
    table = replace(
        problem.table,
        node_j=node_j,
        shared={t: energetic(x) for t, x in problem.table.shared.items()},
        edges={e: energetic(x) for e, x in problem.table.edges.items()},
    )
    options = {
        r: tuple(replace(o, costs={**o.costs, "energy": node_j[r][o.scheme.name]}) for o in row)
        for r, row in problem.options.items()
    }
    return replace(problem, options=options, table=table)


def legal_assignments(problem: Problem) -> Iterator[dict[str, Scheme]]:
    """Every assignment that `legalize` leaves as it is."""
    menu = {r: tuple(o.scheme for o in options) for r, options in problem.options.items()}
    for schemes in itertools.product(*menu.values()):
        plan = {r: s for r, s in zip(menu, schemes, strict=True) if not s.is_fp32}
        if legalize(problem.model, problem.table.rules, plan, menu) == plan:
            yield plan


@dataclass(frozen=True)
class Value:
    """What one assignment amounts to."""

    effect: float
    latency: float
    size: float

    def within(self, limits: Limits, slack: float = 0.0) -> bool:
        pairs = (
            (self.effect, limits.upper.get("effect", np.inf)),
            (self.latency, limits.upper.get("latency", np.inf)),
            (self.size, limits.upper.get("size", np.inf)),
        )
        return all(np.isinf(limit) or value <= limit + slack * abs(limit) for value, limit in pairs)


def value_of(problem: Problem, plan: Mapping[str, Scheme]) -> Value:
    return Value(problem.effect(plan), problem.latency_s(plan), problem.size_bytes(plan))


def spread(problem: Problem) -> list[Value]:
    """The values of all legal assignments."""
    return [value_of(problem, plan) for plan in legal_assignments(problem)]


problems = st.builds(random_problem, st.sampled_from(sorted(GRAPHS)), st.integers(0, 10_000))
