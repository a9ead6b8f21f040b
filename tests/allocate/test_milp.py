"""The exact solver against every assignment there is, on graphs small enough to try them all."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise

import highspy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxmpq.allocate.milp as module
from onnxmpq.allocate import Limits, Option, Problem, quantized_roots
from onnxmpq.allocate.milp import solve
from onnxmpq.cost.chains import legalize
from onnxmpq.cost.table import CostTable
from onnxmpq.schemes import SCHEMES
from tests.allocate.problems import (
    GRAPHS,
    TOLERANCE,
    legal_assignments,
    problems,
    random_problem,
    shape,
    spread,
    value_of,
    with_energies,
)
from tests.graphs import graph, prepared

GOALS = ("effect", "latency", "size")
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


@few
@given(problems, st.sampled_from(GOALS))
def test_unlimited_minimum_is_that_of_all_assignments(problem: Problem, goal: str) -> None:
    best = min(getattr(v, goal) for v in spread(problem))
    found = solve(problem, goal, Limits())
    assert found is not None
    own = getattr(value_of(problem, found.assignment), goal)
    assert own == pytest.approx(best, rel=TOLERANCE, abs=1e-6)
    assert found.value == pytest.approx(own, rel=TOLERANCE, abs=1e-6)


@few
@given(problems, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_least_effect_within_latency_and_size(problem: Problem, latency: float, size: float) -> None:
    values = spread(problem)
    limits = Limits(
        latency=between(min(v.latency for v in values), max(v.latency for v in values), latency),
        size=between(min(v.size for v in values), max(v.size for v in values), size),
    )
    within = [v.effect for v in values if v.within(limits)]
    found = solve(problem, "effect", limits)
    if found is None:
        assert not [v for v in values if v.within(limits, slack=-1e-5)], "a plan exists, none was found"
        return
    own = value_of(problem, found.assignment)
    assert own.within(limits, slack=1e-5)
    loose = [v.effect for v in values if v.within(limits, slack=1e-5)]
    assert own.effect >= min(loose) - 1e-9
    if within:
        assert own.effect <= min(within) * (1 + TOLERANCE) + 2e-5


def test_an_optimum_that_presolve_dropped() -> None:
    """HiGHS 1.12 with presolve called another plan optimal here, of effect 0.289."""
    problem = random_problem("chain", 881)
    found = solve(problem, "effect", Limits(latency=0.00439, size=16442))
    assert found is not None
    assert problem.effect(found.assignment) == pytest.approx(0.2433371)


@few
@given(problems, st.floats(0.05, 1.0))
def test_least_latency_within_an_effect(problem: Problem, share: float) -> None:
    values = spread(problem)
    limits = Limits(effect=share * max(v.effect for v in values))
    best = min(v.latency for v in values if v.within(limits))
    found = solve(problem, "latency", limits)
    assert found is not None
    own = value_of(problem, found.assignment)
    assert own.within(limits, slack=1e-5)
    assert own.latency <= best * (1 + TOLERANCE)


@few
@given(problems, st.sampled_from(GOALS))
def test_solutions_are_what_the_runtime_executes(problem: Problem, goal: str) -> None:
    found = solve(problem, goal, Limits())
    assert found is not None
    menu = {r: tuple(o.scheme for o in options) for r, options in problem.options.items()}
    assert legalize(problem.model, problem.table.rules, found.assignment, menu) == found.assignment


@few
@given(problems)
def test_more_budget_never_hurts(problem: Problem) -> None:
    least = solve(problem, "latency", Limits())
    assert least is not None
    start = problem.latency_s(least.assignment)
    effects = []
    for factor in (1.001, 1.1, 1.3, 2.0):
        found = solve(problem, "effect", Limits(latency=start * factor))
        assert found is not None
        effects.append(problem.effect(found.assignment))
    for tighter, looser in pairwise(effects):
        assert looser <= tighter * (1 + TOLERANCE) + 2e-5


@few
@given(problems)
def test_bound_is_below_every_plan(problem: Problem) -> None:
    found = solve(problem, "latency", Limits())
    assert found is not None and found.proven
    assert found.gap >= 0
    assert found.bound <= min(v.latency for v in spread(problem)) * (1 + TOLERANCE)


@few
@given(st.sampled_from(sorted(GRAPHS)), st.integers(0, 10_000), st.booleans())
def test_least_energy(name: str, seed: int, timeless: bool) -> None:
    """Transitions may cost energy whether they cost time or not."""
    problem = with_energies(random_problem(name, seed), seed, timeless)
    best = min(problem.table.predict_j(problem.model, plan) for plan in legal_assignments(problem))
    found = solve(problem, "energy", Limits())
    assert found is not None
    own = problem.table.predict_j(problem.model, found.assignment)
    assert own == pytest.approx(best, rel=TOLERANCE)
    assert solve(problem, "effect", Limits(energy=best * 0.99)) is None


def test_impossible_limits() -> None:
    problem = random_problem("chain", 0)
    assert solve(problem, "effect", Limits(latency=1e-9)) is None
    assert solve(problem, "effect", Limits(size=10)) is None


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_transitions_decide(name: str) -> None:
    """With dear transitions islands of int8 do not pay; without them the solver would choose them."""
    problem = random_problem(name, 3, negative=False)
    full = solve(problem, "latency", Limits())
    blind = solve(problem, "latency", Limits(), transitions=False)
    assert full is not None and blind is not None
    assert problem.latency_s(full.assignment) <= problem.latency_s(blind.assignment) * (1 + TOLERANCE)


def test_an_activation_counts_once_however_many_read_it() -> None:
    model = shape("residual").model
    convs = [r.name for r in model.layers]
    one, two = ({r: SCHEMES["int8"] for r in convs[:count]} for count in (1, 2))
    assert quantized_roots(model, one) == ("x", "a")
    assert quantized_roots(model, two) == ("x", "a", "b")


def test_passthrough_shares_its_source() -> None:
    model = shape("chain").model
    pool = next(r for r in model.regions if r.op_type == "MaxPool")
    assert quantized_roots(model, {pool.name: SCHEMES["int8"]}) == ("a",)


def test_remarks_of_native_code_are_dropped(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """`convert --json` prints one document there."""

    class Talkative(highspy.Highs):
        def run(self) -> object:
            os.write(1, b"HighsMipSolverData: a remark\n")
            return super().run()

    monkeypatch.setattr(module.highspy, "Highs", Talkative)
    assert solve(random_problem("chain", 0), "latency", Limits()) is not None
    out, err = capfd.readouterr()
    assert out == err == ""
    os.write(1, b"afterwards\n")
    assert capfd.readouterr().out == "afterwards\n"


def subset_sum(layers: int) -> Problem:
    """Whose weight to store in 4 bits, where each loses about as much as it saves: many nodes until that is proven."""
    products = " ".join(f"t{i + 1} = MatMul (t{i}, w{i})" for i in range(layers))
    weights = ", ".join(f"float[4, 4] w{i}" for i in range(layers))
    model = prepared(graph(products, "float[N, 4] t0", f"float[N, 4] t{layers}", weights))
    generator, options = np.random.default_rng(0), {}
    for region in model.regions:
        size = float(generator.integers(1000, 2000))
        effect = (size + generator.uniform(0, 100)) * 1e-6
        options[region.name] = (
            Option(SCHEMES["fp32"], {"latency": 1e-3, "size": size}),
            Option(SCHEMES["w4"], {"latency": 1e-3}, effect),
        )
    return Problem(model, options, {}, CostTable({r.name: {"fp32": 1e-3} for r in model.regions}))


def test_nodes_and_no_clock_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    class Noted(highspy.Highs):
        def setOptionValue(self, option: str, value: object) -> object:
            asked[-1][option] = value
            return super().setOptionValue(option, value)

        def __init__(self) -> None:
            asked.append({})
            super().__init__()

    monkeypatch.setattr(module.highspy, "Highs", Noted)
    problem = subset_sum(50)
    limits = Limits(size=problem.size_bytes({}) / 2)
    best = solve(problem, "effect", limits)
    one, two = (solve(problem, "effect", limits, work=1) for _ in range(2))
    assert best is not None and one is not None and one == two
    assert best.proven
    assert one.bound <= best.value * (1 + TOLERANCE) and best.value <= one.value * (1 + TOLERANCE)
    assert problem.size_bytes(one.assignment) <= limits.upper["size"] * (1 + 1e-6)
    assert not any("time_limit" in options for options in asked)
    full, least = asked[0]["mip_max_nodes"], asked[1]["mip_max_nodes"]
    assert full >= module.FEWEST_NODES and full == module.WORK // 100  # two schemes of fifty layers
    assert least == 1


@few
@given(problems, st.data(), st.sampled_from(GOALS))
def test_merged_regions_have_one_scheme_at_least_cost(problem: Problem, data: st.DataObject, goal: str) -> None:
    names = [r.name for r in problem.model.layers if r.name in problem.options]
    group = tuple(data.draw(st.lists(st.sampled_from(names), min_size=2, max_size=3, unique=True)))
    table = replace(problem.table, rules=replace(problem.table.rules, together=(group,)))
    coupled = replace(problem, table=table)
    found = solve(coupled, goal, Limits())
    menus = [{o.scheme.name for o in problem.options[r]} for r in group]
    assert found is not None
    if set.intersection(*menus):
        assert len({s.name if (s := found.assignment.get(r)) else "fp32" for r in group}) == 1
    plans = list(legal_assignments(coupled))
    assert found.assignment in plans
    assert coupled.total(goal, found.assignment) <= min(coupled.total(goal, p) for p in plans) * (1 + TOLERANCE) + 1e-9
