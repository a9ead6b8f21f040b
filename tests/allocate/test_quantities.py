"""The table of quantities: each row can be asked for, spelled and limited by every solver; so can one that is added."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxmpq.allocate import QUANTITIES, SOLVERS, Limits, Option, Problem, Quantity, parse_budgets, pose, solve
from onnxmpq.allocate.quantities import BYTES, Unit, goals
from onnxmpq.menu import Menu
from onnxmpq.request import Request, options_of
from tests.allocate.problems import GRAPHS, TOLERANCE, legal_assignments, random_problem, with_energies

SLACK = 1e-9
MEMORY = Quantity(
    name="memory",
    units=BYTES,
    examples="3MB, 25%",
    unit=Unit("MB", 1e6),
    part=Unit("kB", 1e3),
    best="leanest",
    figure="memory_bytes",
    whole=True,
    of_option=lambda region, scheme, table, weights: 100.0 if scheme.reads.quantized else 400.0,
    fixed=lambda model: 64.0,
    original=lambda model, table: 64.0 + 400.0 * len(model.regions),
)


def full(name: str, seed: int = 0) -> Problem:
    """A problem in which every quantity costs something."""
    return with_energies(random_problem(name, seed), seed, timeless=False)


def with_memory(problem: Problem) -> Problem:
    """The problem with the costs of MEMORY."""

    def costed(region: str, option: Option) -> Option:
        memory = MEMORY.of_option(problem.regions[region], option.scheme, problem.table, {})
        return replace(option, costs={**option.costs, "memory": memory})

    options = {r: tuple(costed(r, o) for o in row) for r, row in problem.options.items()}
    return replace(problem, options=options, fixed={**problem.fixed, "memory": MEMORY.fixed(problem.model)})


def test_each_row_is_an_option_of_the_request() -> None:
    assert QUANTITIES.keys() <= options_of(Request).keys()
    for name in QUANTITIES:
        assert name in Request(**{name: "50%"}).budgets.limits


def test_names_and_figures_are_unique() -> None:
    assert all(name == row.name for name, row in QUANTITIES.items())
    assert len({row.figure for row in QUANTITIES.values()}) == len(QUANTITIES)


@pytest.mark.parametrize("name", QUANTITIES)
def test_the_unit_of_messages_is_one_that_the_option_accepts(name: str) -> None:
    row = QUANTITIES[name]
    assert row.units[row.unit.symbol.lower()] == row.unit.value
    shown = row.unit.show(3.0 * row.unit.value)
    assert parse_budgets(**{name: shown}).limits[name].value == pytest.approx(3.0 * row.unit.value)


@pytest.mark.parametrize("graph", sorted(GRAPHS))
@pytest.mark.parametrize("goal", goals())
def test_the_exact_solver_reaches_and_respects_the_least_of_each_goal(goal: str, graph: str) -> None:
    problem = full(graph)
    least = min(problem.total(goal, plan) for plan in legal_assignments(problem))
    found = solve(problem, goal, Limits())
    assert found is not None
    assert problem.total(goal, found.assignment) <= least + TOLERANCE * abs(least) + SLACK
    within = solve(problem, "effect", Limits(**{goal: least * (1.0 + TOLERANCE) + SLACK}))
    assert within is not None and problem.total(goal, within.assignment) <= least * (1.0 + 2 * TOLERANCE) + SLACK
    if least > 0:
        assert solve(problem, "effect", Limits(**{goal: least * (1.0 - 10 * TOLERANCE)})) is None


def test_a_limit_without_a_row_is_refused() -> None:
    with pytest.raises(TypeError, match="no such limit: latency_s; the limits are effect, latency"):
        Limits(latency_s=1.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_a_row_that_is_added_limits_plans(monkeypatch: pytest.MonkeyPatch, graph: str, solver: str) -> None:
    monkeypatch.setitem(QUANTITIES, "memory", MEMORY)  # type: ignore[arg-type]
    problem = with_memory(full(graph))
    original = problem.total("memory", {})
    assert original == MEMORY.original(problem.model, problem.table)
    least = min(problem.total("memory", plan) for plan in legal_assignments(problem))
    limits = {
        "memory": (least + original) / 2,
        **{n: 2.0 * problem.total(n, {}) for n in QUANTITIES if n != "memory"},
    }
    found = SOLVERS[solver](problem, "effect", Limits(**limits))
    assert found is not None or solver != "milp"  # the others may find none, as they see no transitions
    for name, limit in limits.items() if found is not None else ():
        assert problem.total(name, found.assignment) <= limit * (1.0 + 1e-6)
    assert SOLVERS[solver](problem, "effect", Limits(memory=least * 0.9)) is None


def test_a_row_that_is_added_is_posed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUANTITIES, "memory", MEMORY)  # type: ignore[arg-type]
    known = full("chain")
    menu = Menu(
        {region: tuple(o.scheme for o in row if o.scheme.weight is None) for region, row in known.options.items()}
    )
    posed = pose(known.model, menu, known.table, None, {})
    assert posed.total("memory", {}) == 64.0 + 400.0 * len(known.model.regions)
