"""Kinds of layers told apart by wall clocks, where profiled times are whole microseconds. No clock is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.cost.kinds import MOST_KINDS, by_wall_clock, plans_by_kind
from onnxmpq.cost.measure import Profile
from onnxmpq.cost.profile import fit_table
from onnxmpq.cost.table import CostTable
from onnxmpq.model import Model
from onnxmpq.runtimes import KernelTimes
from onnxmpq.schemes import SCHEMES, Scheme
from tests.graphs import graph, prepared

MICROSECOND = 1e-6
SHAPES = {"a": (64, 64), "b": (64, 128), "c": (128, 64)}
FLOAT_S = {"a": 1.9e-6, "b": 1.1e-6, "c": 2.9e-6}
BLOCKS_S = {"a": 1.0e-6, "b": 1.2e-6, "c": 1.8e-6}  # of "a" rounded down as long as float32's, which takes nearly twice
BETWEEN_S = 0.4e-6
W8 = next(s for s in SCHEMES.values() if s.accuracy_level is not None and s.weight is not None and s.weight.bits == 8)


def stack(repeats: int = 3) -> Model:
    body, weights, before = [], [], "x"
    for number in range(repeats):
        for name in "abc":
            after = f"{name}{number}"
            body.append(f"{after} = MatMul ({before}, w{after})")
            weights.append(f"float[{', '.join(map(str, SHAPES[name]))}] w{after}")
            before = after
    body.append(f"y = Relu ({before})")
    return prepared(graph(" ".join(body), "float[1, 64] x", "float[N, 64] y", ", ".join(weights)))


def kind_of(model: Model, region: str) -> str:
    shape = tuple(model.region(region).params.weight_shape)
    return next(name for name, s in SHAPES.items() if s == shape)


def profile(model: Model, plan: Mapping[str, Scheme], scale: float = 1.0) -> Profile:
    """What onnxruntime's profiler would read, kernels of a multiple of the time above."""
    true = {r.name: scale * (BLOCKS_S if r.name in plan else FLOAT_S)[kind_of(model, r.name)] for r in model.layers}
    read = {name: np.floor(s / MICROSECOND) * MICROSECOND for name, s in true.items()}
    ones = dict.fromkeys(true, 1)
    wall = sum(true.values()) + len(true) * BETWEEN_S
    return Profile(plan, KernelTimes(read, {}, 0.0, ones, {}, 1), wall)


def uniform(model: Model) -> dict[str, Scheme]:
    return {r.name: W8 for r in model.layers}


def fitted(model: Model, scale: float = 1.0, *, kinds: bool = True) -> CostTable:
    profiles = [profile(model, {}, scale), profile(model, uniform(model), scale)]
    if kinds:
        profiles += [profile(model, p, scale) for p in plans_by_kind(model, profiles, profiles[0].wall_s)]
    return fit_table(model, profiles, 2, {}, None, len(profiles) - 2)


def worst(model: Model, table: CostTable, scale: float = 1.0) -> float:
    """The largest error of what quantizing some layers saves, as a share of fp32's wall clock."""
    generator, plain = np.random.default_rng(0), profile(model, {}, scale).wall_s
    found = []
    for _ in range(20):
        plan = {name: s for name, s in uniform(model).items() if generator.random() < 0.5}
        saved = plain - profile(model, plan, scale).wall_s
        found.append(abs(saved - table.predict_s(model, {}) + table.predict_s(model, plan)) / plain)
    return max(found)


def test_one_plan_for_each_kind() -> None:
    model = stack()
    plans = plans_by_kind(model, [profile(model, {}), profile(model, uniform(model))], profile(model, {}).wall_s)
    assert [{kind_of(model, r) for r in plan} for plan in plans] == [{"a"}, {"b"}, {"c"}]
    assert [len(plan) for plan in plans] == [3, 3, 3]
    assert len(plans) <= MOST_KINDS


def test_savings_that_the_profiler_does_not_see() -> None:
    model = stack()
    assert worst(model, fitted(model)) < 0.02 < worst(model, fitted(model, kinds=False))


def test_only_float32_of_kinds_is_corrected_and_its_sum_stays() -> None:
    model = stack()
    only_a = {name: scheme for name, scheme in uniform(model).items() if kind_of(model, name) == "a"}
    profiles = [profile(model, plan) for plan in ({}, uniform(model), only_a)]
    before = CostTable({r.name: {"fp32": 1e-6, W8.kernel: 1e-6} for r in model.layers}, base_s=5e-6)
    after = by_wall_clock(model, before, profiles)
    assert after.predict_s(model, {}) == pytest.approx(before.predict_s(model, {}))
    assert {r: costs[W8.kernel] for r, costs in after.node_s.items()} == dict.fromkeys(before.node_s, 1e-6)
    a, b, c = (next(costs["fp32"] for r, costs in after.node_s.items() if kind_of(model, r) == k) for k in "abc")
    assert a == pytest.approx(1.9e-6, abs=0.1e-6)
    assert b == pytest.approx(c)
    assert b == pytest.approx(1.5e-6, abs=0.1e-6), "nothing tells the two apart"


@pytest.mark.parametrize("case", ["long kernels", "one kind", "nothing is faster", "quantized activations"])
def test_no_plans_where_there_is_nothing_to_tell(case: str) -> None:
    model = stack()
    scale = 1000.0 if case == "long kernels" else 1.0
    plain, all_of_it = profile(model, {}, scale), profile(model, uniform(model), scale)
    if case == "one kind":
        all_of_it = profile(model, {n: s for n, s in uniform(model).items() if kind_of(model, n) == "a"})
    elif case == "nothing is faster":
        all_of_it = replace(all_of_it, wall_s=plain.wall_s)
    elif case == "quantized activations":
        all_of_it = replace(all_of_it, assignment=dict.fromkeys(uniform(model), SCHEMES["int8"]))
    assert plans_by_kind(model, [plain, all_of_it], plain.wall_s) == []


def test_kernels_of_milliseconds_are_left_as_profiled() -> None:
    model = stack()
    profiles = [profile(model, {}, 1000.0), profile(model, uniform(model), 1000.0)]
    profiles.append(profile(model, dict(list(uniform(model).items())[:2]), 1000.0))
    before = CostTable({r.name: {"fp32": 3e-3, W8.kernel: 1e-3} for r in model.layers})
    after = by_wall_clock(model, before, profiles)
    for region, costs in before.node_s.items():
        assert after.node_s[region]["fp32"] == pytest.approx(costs["fp32"], rel=1e-3)
