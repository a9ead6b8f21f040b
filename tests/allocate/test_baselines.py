"""The baseline solvers against trying every assignment, and the registry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.allocate import SOLVERS, Limits, Problem, dynamic, greedy, require_solver
from onnxmpq.allocate import solve as dispatched
from onnxmpq.allocate.milp import solve
from onnxmpq.allocate.separable import Separable
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import UsageError
from tests.allocate.problems import TOLERANCE, problems, random_problem, spread, value_of

BASELINES = ("greedy", "dynamic")
baselines = st.sampled_from(BASELINES)


def without_transitions(problem: Problem) -> Problem:
    """Node costs only, and no rules of layout."""
    return replace(problem, table=CostTable(problem.table.node_s, base_s=problem.table.base_s))


def knapsack(seed: int, regions: int = 5, options: int = 4) -> Separable:
    """Regions with random options; costs in all four goals."""
    generator = np.random.default_rng(seed)
    names = tuple(f"r{i}" for i in range(regions))
    costs = tuple(generator.uniform(0.1, 1.0, (options, 4)) for _ in names)
    return Separable(names, tuple(() for _ in names), costs, np.zeros(4))


def exhaustive(view: Separable, goal: int, limits: np.ndarray) -> float:
    """Least goal over all choices within the limits; inf for none."""
    sums = np.zeros((1, 4))
    for costs in view.costs:
        sums = (sums[:, None, :] + costs[None, :, :]).reshape(-1, 4)
    within = np.all(sums <= limits, axis=1)
    return float(sums[within, goal].min()) if within.any() else np.inf


def value(view: Separable, goal: int, picked: np.ndarray) -> np.ndarray:
    return np.sum([costs[k] for costs, k in zip(view.costs, picked, strict=True)], axis=0)


def test_registry_has_the_exact_solver_and_the_baselines() -> None:
    assert SOLVERS["milp"] is solve
    assert set(SOLVERS) == {"milp", *BASELINES}


@settings(max_examples=40)
@given(problems, baselines, st.floats(0.3, 1.0), st.floats(0.4, 1.0))
def test_plans_hold_the_limits_at_their_real_costs(problem: Problem, name: str, latency: float, size: float) -> None:
    limits = Limits(latency=latency * problem.latency_s({}), size=size * problem.size_bytes({}))
    found = SOLVERS[name](problem, "effect", limits)
    if found is None:
        return
    real = value_of(problem, found.assignment)
    assert real.within(limits, 1e-9)
    assert found.value == pytest.approx(real.effect)
    assert found.bound <= found.value
    assert not found.proven


@settings(max_examples=25)
@given(problems, baselines, st.sampled_from(["effect", "latency", "size"]), st.floats(0.3, 1.0))
def test_never_better_than_exhaustive(problem: Problem, name: str, goal: str, latency: float) -> None:
    limits = Limits(latency=latency * problem.latency_s({}))
    found = SOLVERS[name](problem, goal, limits)  # type: ignore[arg-type]
    best = min((getattr(v, goal) for v in spread(problem) if v.within(limits, 1e-8)), default=np.inf)
    if found is not None:
        assert found.value >= best - 1e-9 * abs(best)


@settings(max_examples=25)
@given(problems, baselines)
def test_without_transitions_the_fastest_plan_is_the_exact_one(problem: Problem, name: str) -> None:
    plain = without_transitions(problem)
    found, exact = SOLVERS[name](plain, "latency", Limits()), solve(plain, "latency", Limits())
    assert found is not None and exact is not None
    legal = all(r in found.assignment for r in exact.assignment) and len(found.assignment) == len(exact.assignment)
    if legal:  # passthrough rules may turn float regions to int8 behind the choice
        assert found.value == pytest.approx(exact.value, rel=TOLERANCE)


@pytest.mark.parametrize("name", BASELINES)
def test_no_plan_where_nothing_fits(name: str) -> None:
    problem = random_problem("residual", 3)
    assert SOLVERS[name](problem, "effect", Limits(size=1.0)) is None


@pytest.mark.parametrize("name", BASELINES)
def test_float_plan_is_kept_where_it_fits(name: str) -> None:
    problem = random_problem("chain", 5)
    found = SOLVERS[name](problem, "effect", Limits(latency=problem.latency_s({})))
    assert found is not None and found.value <= 1e-9


@pytest.mark.parametrize("name", BASELINES)
def test_transitions_can_be_left_out_of_the_costs(name: str) -> None:
    problem = random_problem("residual", 11, negative=False)
    seen, unseen = (SOLVERS[name](problem, "latency", Limits(), transitions=t) for t in (True, False))
    assert seen is not None and unseen is not None
    assert seen.assignment == unseen.assignment
    assert unseen.value <= seen.value


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.35, 0.9))
def test_dynamic_programming_is_exact_up_to_its_grid(seed: int, share: float) -> None:
    view = knapsack(seed)
    limits = np.array([np.inf, 5 * share, np.inf, np.inf])
    picked, best = dynamic.choose(view, 0, limits), exhaustive(view, 0, limits)
    if picked is None:
        assert best == np.inf or exhaustive(view, 0, limits * 0.99) == np.inf
        return
    sums = value(view, 0, picked)
    assert sums[1] <= limits[1] * 1.002  # five roundings to a 4096th
    assert sums[0] <= exhaustive(view, 0, limits * 0.998) + 1e-9


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.45, 0.9), st.floats(0.45, 0.9))
def test_greedy_holds_two_limits_and_comes_near(seed: int, one: float, other: float) -> None:
    view = knapsack(seed)
    limits = np.array([np.inf, 5 * one, 5 * other, np.inf])
    picked, best = greedy.choose(view, 0, limits), exhaustive(view, 0, limits)
    if picked is None:
        return
    sums = value(view, 0, picked)
    assert np.all(sums <= limits * (1 + 1e-9))
    assert best - 1e-9 <= sums[0] <= 2.0 * best


def test_greedy_exchanges_pairs() -> None:
    """Single changes are stuck at 1.0 + 1.0; changing both regions gives 0.2 + 1.1 within the same limit."""
    costs = (np.array([[1.0, 1.0, 0, 0], [0.2, 2.0, 0, 0]]), np.array([[1.0, 2.0, 0, 0], [1.1, 1.0, 0, 0]]))
    view = Separable(("a", "b"), ((), ()), costs, np.zeros(4))
    picked = greedy.choose(view, 0, np.array([np.inf, 3.0, np.inf, np.inf]))
    assert picked is not None
    assert picked.tolist() == [1, 1]


@pytest.mark.parametrize("limit", [0.0, 1e-300, 1e-12])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_greedy_with_a_limit_of_nothing(limit: float) -> None:
    """Reached where a choice costs nothing, None where none does, and no overflow on the way."""
    free = np.array([[1.0, 1.0, 0, 0], [2.0, 0.0, 0, 0]])
    dear = np.array([[1.0, 1.0, 0, 0], [2.0, 0.5, 0, 0]])
    limits = np.array([np.inf, limit, np.inf, np.inf])
    picked = greedy.choose(Separable(("a", "b"), ((), ()), (free, free), np.zeros(4)), 0, limits)
    assert picked is not None
    assert picked.tolist() == [1, 1]
    assert greedy.choose(Separable(("a", "b"), ((), ()), (free, dear), np.zeros(4)), 0, limits) is None


def test_the_problem_names_its_solver() -> None:
    problem = replace(random_problem("chain", 0), solver="greedy")
    assert dispatched(problem, "effect", Limits()) == greedy.solve(problem, "effect", Limits())
    with pytest.raises(UsageError, match=r"--solver gredy: no such solver; did you mean greedy\?"):
        require_solver("gredy")
