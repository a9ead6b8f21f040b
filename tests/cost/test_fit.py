"""Fitting recovers what whole plans cost from their profiles. No clock is read here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.cost.fit import Clock, fit
from onnxmpq.cost.profile import fit_table, plans_to_profile
from onnxmpq.cost.sampler import mixed_plans, uniform_plans
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS
from onnxmpq.menu import candidates
from onnxmpq.runtimes import KernelTimes, Rules
from onnxmpq.target import load_target
from tests.cost.synthetic import GRAPHS, profile_of, random_table, setting
from tests.graphs import graph, prepared

every_graph = pytest.mark.parametrize("name", sorted(GRAPHS))


def errors(name: str, seed: int, overhead_s: float = 0.0) -> tuple[np.ndarray, CostTable, CostTable]:
    """Relative errors of the predicted latency of plans that were not profiled."""
    case = setting(name)
    model, menu, rules = case.model, case.menu, case.rules
    truth = random_table(case, seed)
    plans = plans_to_profile(model, menu, rules, seed)
    profiles = [profile_of(model, truth, p, overhead_s=overhead_s) for p in plans]
    table = fit_table(model, profiles, len(list(uniform_plans(model, menu, rules))), {}, rules)
    unseen = list(mixed_plans(model, menu, rules, 20, seed + 1))
    walls = np.array([profile_of(model, truth, p, overhead_s=overhead_s).wall_s for p in unseen])
    found = np.array([table.predict_s(model, p) for p in unseen])
    return np.abs(found / walls - 1), table, truth


@every_graph
@pytest.mark.parametrize("seed", range(3))
def test_unseen_plans_are_predicted(name: str, seed: int) -> None:
    wrong, _, _ = errors(name, seed)
    assert np.median(wrong) < 0.01
    assert wrong.max() < 0.08


@every_graph
def test_time_between_kernels_is_found_in_the_wall_clock(name: str) -> None:
    wrong, _, _ = errors(name, 0, overhead_s=5e-5)
    assert np.median(wrong) < 0.02


@every_graph
def test_kernels_cost_what_they_cost(name: str) -> None:
    """Without transitions the table itself is recovered, up to what all plans share."""
    case = setting(name)
    model, menu, rules = case.model, case.menu, case.rules
    truth = random_table(case, 7, transitions=False)
    profiles = [profile_of(model, truth, p) for p in plans_to_profile(model, menu, rules, 0)]
    table = fit(model, profiles, {"cpu": "none"})
    for region, costs in truth.node_s.items():
        for kernel in table.node_s[region]:
            assert table.node_s[region][kernel] == pytest.approx(costs[kernel], rel=1e-3)
    assert table.base_s == pytest.approx(truth.base_s, rel=1e-3)
    assert table.meta == {"cpu": "none"}


def test_one_profile_is_enough_for_a_table() -> None:
    case = setting("residual")
    model, truth = case.model, random_table(case, 0)
    table = fit(model, [profile_of(model, truth, {})], {})
    assert table.predict_s(model, {}) == pytest.approx(truth.predict_s(model, {}))


@every_graph
def test_profiled_plans_hold_every_kernel_of_the_menu(name: str) -> None:
    case = setting(name)
    model, menu, rules = case.model, case.menu, case.rules
    seen = {(r, s.kernel) for p in plans_to_profile(model, menu, rules, 0) for r, s in p.items()}
    for region in model.layers:
        for scheme in menu[region.name]:
            if scheme.kernel != "fp32":
                assert (region.name, scheme.kernel) in seen


def test_what_writing_int8_costs_counts_for_every_kernel_that_does() -> None:
    """Time at the mover of a tensor that its producer writes in int8, by whatever kernel, belongs to those kernels."""
    case = setting("residual")
    model, rules, written = case.model, case.rules, 3e-4
    own = {"fp32": 1e-3, "int8": 5e-4, "u8u8": 8e-4}
    table = CostTable({r.name: {s.kernel: own.get(s.kernel, 1e-3) for s in case.menu[r.name]} for r in model.regions})
    menu = {r: tuple(s for s in row if s.name in own) for r, row in case.menu.items()}
    plans = plans_to_profile(model, menu, rules, 0)
    [tensor] = model.region("Conv_0").outputs
    profiles = []
    for plan in plans:
        profile = profile_of(model, table, plan)
        extra = written if "Conv_0" in plan else 0.0
        times = replace(profile.times, tensor_s={tensor: extra})
        profiles.append(replace(profile, times=times, wall_s=profile.wall_s + extra))
    found = fit(model, profiles, {}).node_s["Conv_0"]
    assert found["fp32"] == pytest.approx(own["fp32"], rel=1e-3)
    for kernel in ("int8", "u8u8"):
        assert found[kernel] == pytest.approx(own[kernel] + written, rel=1e-3)


def test_a_kernel_of_few_regions_is_profiled_among_others_of_its_format() -> None:
    case = setting("residual")
    menu = {
        name: tuple(s for s in row if s.name in ("fp32", "int8") or (s.name == "u8u8" and name == "Conv_3"))
        for name, row in case.menu.items()
    }
    plans = list(uniform_plans(case.model, menu, case.rules))
    everywhere = next(p for p in plans if all(s.kernel == "int8" for s in p.values()) and "Add_6" in p)
    [mixed] = [p for p in plans if any(s.kernel == "u8u8" for s in p.values())]
    assert mixed.keys() == everywhere.keys()
    assert {n for n, s in mixed.items() if s != everywhere[n]} == {"Conv_3"}


def test_blocks_of_sizes_that_no_region_has_side_by_side_share_a_plan() -> None:
    """Layers with rows of 192 and 256 inputs: as many plans as where all rows are alike."""
    proto = graph(
        "a = MatMul (x, u)  b = Relu (a)  y = MatMul (b, v)",
        "float[N, 192] x",
        "float[N, 16] y",
        "float[192, 256] u, float[256, 16] v",
    )
    model, rules = prepared(proto), Rules()
    menu = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    offered = {name: tuple(s for s in row if s.is_fp32 or s.accuracy_level is not None) for name, row in menu.items()}
    plans = [sorted(s.name for s in plan.values()) for plan in uniform_plans(model, offered, rules)]
    assert sorted(plans) == [
        [],
        ["w4b128", "w4b64"],
        ["w4b32", "w4b32"],
        ["w4b32-level0", "w4b32-level0"],
        ["w8b128", "w8b64"],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_kernels_shorter_than_the_profilers_own_time_cost_what_the_wall_clock_says(seed: int) -> None:
    """As in a decoder's step: the profiler adds more to a kernel than it takes, and its runs differ in speed."""
    case, generator = setting("tokens"), np.random.default_rng(seed)
    model, menu, rules = case.model, case.menu, case.rules
    plans = plans_to_profile(model, menu, rules, seed)
    blocks = [plan for plan in plans if plan and all(s.accuracy_level is not None for s in plan.values())]
    truth = random_table(case, seed)
    node_s = {r: {k: 0.3 * row["fp32"] if "b" in k else s for k, s in row.items()} for r, row in truth.node_s.items()}
    truth = replace(truth, node_s=node_s)
    profiles = []
    for plan in plans:
        exact, speed = profile_of(model, truth, plan), float(generator.uniform(0.8, 1.25))
        times = exact.times.scaled(1e-3)  # a microsecond each
        region_s = {r: s + 5e-6 * times.region_kernels[r] for r, s in times.region_s.items()}
        tensor_s = {t: s + 5e-6 * times.tensor_kernels[t] for t, s in times.tensor_s.items()}
        longer = KernelTimes(region_s, tensor_s, times.other_s + 5e-6, times.region_kernels, times.tensor_kernels, 1)
        longer = longer.scaled(speed if plan else 1.0)
        profiles.append(replace(exact, times=longer, wall_s=1e-3 * exact.wall_s))
    table = fit_table(model, profiles, len(list(uniform_plans(model, menu, rules))), {}, rules)
    fp32_s = table.predict_s(model, {})
    for plan in blocks:
        saved = truth.predict_s(model, {}) - truth.predict_s(model, plan)
        assert fp32_s - table.predict_s(model, plan) == pytest.approx(1e-3 * saved, rel=0.15)


@given(st.lists(st.tuples(st.floats(-0.005, 0.005), st.floats(-0.1, 0.1)), min_size=1, max_size=6))
def test_plans_that_take_the_same_time_tell_no_factor(noise: list[tuple[float, float]]) -> None:
    """As where only the size counts: with as many kernels, what is left of a difference is noise."""
    case = setting("residual")
    exact = profile_of(case.model, random_table(case, 0, transitions=False), {})
    profiles = [exact] + [
        replace(exact, times=exact.times.scaled(1 + t), wall_s=exact.wall_s * (1 + w)) for t, w in noise
    ]
    clock = Clock.of(profiles, exact)
    assert clock.factor == pytest.approx(1.0, abs=0.25)
    kernel_s = exact.kernel_s / exact.kernels
    assert clock.factor * kernel_s + clock.overhead_s == pytest.approx(kernel_s, rel=0.1)


def test_plans_that_all_move_tensors_tell_no_factor() -> None:
    """As where the runtime reorders tensors of the fp32 model already."""
    case = setting("residual")
    model, menu, rules = case.model, case.menu, case.rules
    truth = random_table(case, 2)
    profiles = []
    for plan in plans_to_profile(model, menu, rules, 0):
        exact = profile_of(model, truth, plan)
        [first, *_] = model.regions[0].outputs
        times = replace(exact.times, tensor_kernels={**exact.times.tensor_kernels, first: 1})
        profiles.append(replace(exact, times=times))
    found = fit(model, profiles, {})
    assert found.predict_s(model, {}) == pytest.approx(profiles[0].wall_s, rel=0.05)
