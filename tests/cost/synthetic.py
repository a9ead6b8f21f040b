"""Models whose costs are known exactly, and the profiles that a perfect profiler would give of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from hypothesis import strategies as st

from onnxmpq.cost.measure import Profile
from onnxmpq.cost.table import CostTable, Formats, Transition, edges_of
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import tensor_shapes
from onnxmpq.menu import Menu, candidates
from onnxmpq.model import Model
from onnxmpq.runtimes import REFERENCE, KernelTimes, Rules
from onnxmpq.schemes import SCHEMES, Format, Scheme
from onnxmpq.target.load import load_target
from tests.graphs import feeds_for, graph, prepared, residual_cnn, token_model


def branches() -> onnx.ModelProto:
    return graph(
        """a0 = Conv <kernel_shape = [1, 1]> (x, w0)
           a = Relu (a0)
           b = Conv <kernel_shape = [1, 1]> (a, w1)
           c = MaxPool <kernel_shape = [1, 1]> (a)
           s = Sigmoid (c)
           k = Concat <axis = 1> (b, s)
           d = Conv <kernel_shape = [1, 1]> (k, w2)
           t = Transpose <perm = [0, 2, 3, 1]> (d)
           m = MatMul (t, w3)
           e = Add (m, t)
           y = Transpose <perm = [0, 3, 1, 2]> (e)""",
        "float[N, 8, 4, 4] x",
        "float[N, 16, 4, 4] y",
        "float[8, 8, 1, 1] w0, float[8, 8, 1, 1] w1, float[16, 16, 1, 1] w2, float[16, 16] w3",
    )


GRAPHS = {"residual": residual_cnn, "tokens": token_model, "branches": branches}
names = st.sampled_from(sorted(GRAPHS))


@dataclass(frozen=True)
class Setting:
    """A model with the menu of the cpu target and what the runtime does with its layouts."""

    model: Model
    menu: Menu
    rules: Rules


@cache
def setting(name: str) -> Setting:
    proto = GRAPHS[name]()
    model = prepared(proto)
    menu = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    tensors = list(dict.fromkeys(t for r in model.regions for t in (*r.inputs, *r.outputs)))
    shapes = tensor_shapes(model, feeds_for(proto), tensors)
    return Setting(model, menu, REFERENCE.rules(model, {t: len(s) for t, s in shapes.items()}))


@st.composite
def assignments(draw: st.DrawFn, menu: Menu) -> dict[str, Scheme]:
    """Any scheme of the menu for any region, whatever the runtime would make of it."""
    chosen = {r: draw(st.sampled_from(list(s))) for r, s in menu.items()}
    return {r: s for r, s in chosen.items() if not s.is_fp32}


def random_table(case: Setting, seed: int, *, transitions: bool = True) -> CostTable:
    """Seconds of about a millisecond per region and a fifth of it per change of format or layout; some gain time."""
    generator = np.random.default_rng(seed)

    def some(scale: float, low: float = 0.0) -> float:
        return float(generator.uniform(low, 1.0) * scale)

    menu = case.menu
    node_s = {r: {k: some(1e-3, 0.2) for k in dict.fromkeys(s.kernel for s in menu[r])} for r in menu}
    if not transitions:
        return CostTable(node_s, base_s=some(1e-3), rules=case.rules)
    edges = edges_of(case.model)
    return CostTable(
        node_s,
        {e.tensor: Transition(some(1e-4), some(1e-4)) for e in edges if generator.random() < 0.7},
        {e.key: Transition(*(some(2e-4, -0.5) for _ in range(4))) for e in edges},
        base_s=some(1e-3),
        rules=case.rules,
    )


def profile_of(model: Model, table: CostTable, assignment: Mapping[str, Scheme], *, overhead_s: float = 0.0) -> Profile:
    """One kernel per region; transitions show up as movers of their tensor. overhead_s: of each kernel, in the wall
    time only, as launching a kernel takes time that the profiler does not see."""
    region_s = {r.name: table.scheme_s(r.name, assignment.get(r.name)) for r in model.regions}
    tensor_s: dict[str, float] = defaultdict(float)
    kernels: dict[str, int] = defaultdict(int)
    for edge, seconds in (*table.transitions_s(model, assignment), *table.reorders_s(model, assignment)):
        tensor_s[edge.tensor] += seconds
        kernels[edge.tensor] += 1
    ones = {r: 1 for r in region_s}
    total = sum(region_s.values()) + sum(tensor_s.values()) + table.base_s
    wall = total + overhead_s * (len(ones) + sum(kernels.values()) + 1)
    return Profile(assignment, KernelTimes(region_s, dict(tensor_s), table.base_s, ones, dict(kernels), 1), wall)


def formats_on_edges(model: Model, assignment: Mapping[str, Scheme]) -> list[tuple[Format, Format]]:
    formats = Formats(model, assignment)
    return [(formats.written(e.producer), formats.read(e.consumer)) for e in edges_of(model)]


INT8, FP32 = SCHEMES["int8"], SCHEMES["fp32"]
