"""The account of a plan adds up: rows of regions and transitions make the predictions for the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.allocate import EFFECT, Limits, Problem, pose, solve
from onnxmpq.cost import CostTable, region_bytes
from onnxmpq.menu import Menu
from onnxmpq.report import account_regions, account_transitions, account_uniform
from onnxmpq.report.account import STATIC_INT8
from onnxmpq.rounding import quantize_weight
from onnxmpq.schemes import FP32, SCHEMES, Scheme
from tests.allocate.problems import random_problem
from tests.graphs import graph, prepared

GRAPHS = ("chain", "residual", "attention")


def solved(problem: Problem, share: float) -> dict[str, Scheme]:
    """The plan of least effect at a share of float32's latency, or the fastest."""
    fastest = solve(problem, "latency", Limits())
    assert fastest is not None
    limit = max(problem.latency_s({}) * share, problem.latency_s(fastest.assignment) * (1 + 1e-6))
    found = solve(problem, EFFECT, Limits(latency=limit))
    return (found or fastest).assignment


@given(st.sampled_from(GRAPHS), st.integers(0, 20), st.floats(0.3, 1.0))
def test_rows_add_up(which: str, seed: int, share: float) -> None:
    problem = random_problem(which, seed)
    plan = solved(problem, share)
    rows, changes = account_regions(problem, plan), account_transitions(problem, plan)
    assert [r.name for r in rows] == [r.name for r in problem.model.regions]
    milliseconds = sum(r.latency_ms for r in rows) + sum(t.latency_ms for t in changes)
    assert milliseconds + problem.table.base_s * 1e3 == pytest.approx(problem.latency_s(plan) * 1e3)
    assert sum(r.effect + r.effect_activations for r in rows) == pytest.approx(problem.effect(plan))
    for row in rows:
        assert row.scheme == (plan[row.name].name if row.name in plan else FP32)
        assert row.latency_ms_fp32 == problem.option(row.name, None).latency_s * 1e3


def test_float32_has_no_effect_and_changes_no_format() -> None:
    problem = random_problem("residual", 3)
    assert not [t for t in account_transitions(problem, {}) if t.change != "layout"]
    assert {r.effect + r.effect_activations for r in account_regions(problem, {})} == {0.0}


@given(st.sampled_from(GRAPHS), st.integers(0, 20))
def test_transitions_start_and_end_where_formats_differ(which: str, seed: int) -> None:
    problem = random_problem(which, seed)
    plan = solved(problem, 0.6)
    for row in account_transitions(problem, plan):
        reads = plan[row.consumer].reads.quantized if row.consumer in plan else False
        assert row.change == "layout" or (row.change == "quantize") is reads


def test_uniform_schemes_are_predicted_or_timed() -> None:
    problem = random_problem("chain", 1)
    int8 = {r: o.scheme for r, row in problem.options.items() for o in row if o.scheme.name == "int8"}
    rows = {r.name: r for r in account_uniform(problem, int8, [(int8, 0.25)], {})}
    assert rows[FP32].effect == 0.0 and rows[FP32].regions == 0 and not rows[FP32].measured
    assert rows[FP32].latency_ms == pytest.approx(problem.latency_s({}) * 1e3)
    assert rows[STATIC_INT8].measured and rows[STATIC_INT8].latency_ms == 250.0
    assert rows[STATIC_INT8].regions == len(int8)
    assert "int8" not in rows, "the same plan stands there once"


def test_a_plan_beyond_the_options_has_no_effect_to_tell() -> None:
    """int8 that the menu dropped later: its latency is known, its effect is not."""
    problem = random_problem("chain", 1)
    region = problem.model.regions[0].name
    [int8] = [o.scheme for o in problem.options[region] if o.scheme.name == "int8"]
    options = {r: tuple(o for o in row if o.scheme.is_fp32) for r, row in problem.options.items()}
    without = Problem(problem.model, options, problem.activations, problem.table, problem.fixed)
    rows = {r.name: r for r in account_uniform(without, {region: int8}, (), {})}
    assert rows[STATIC_INT8].effect is None and rows[STATIC_INT8].size_bytes is None
    assert rows[STATIC_INT8].latency_ms == pytest.approx(problem.latency_s({region: int8}) * 1e3)
    assert int8.weight is not None
    weights = {
        (w.key, int8.weight.name): quantize_weight(problem.model.matrix(w), int8.weight)
        for w in problem.regions[region].params.weights
    }
    rows = {r.name: r for r in account_uniform(without, {region: int8}, (), weights)}
    only_fp32 = Menu({r: (SCHEMES[FP32],) for r in options})
    original = pose(problem.model, only_fp32, problem.table, None, {}).size_bytes({})
    saved = 4 * problem.regions[region].params.parameters - region_bytes(problem.regions[region], int8, weights)
    assert rows[STATIC_INT8].size_bytes == original - saved


def test_rows_of_layers_that_share_a_weight_add_up() -> None:
    """The first has its bytes, in float32 too, and each names the others."""
    side = 96
    body = "a = MatMul (x, w)  b = Relu (a)  c = MatMul (b, w)  d = Relu (c)  y = MatMul (d, v)"
    model = prepared(
        graph(body, f"float[N, {side}] x", f"float[N, {side}] y", f"float[{side}, {side}] w, float[{side}, {side}] v")
    )
    w4, w8 = SCHEMES["w4"], SCHEMES["w8"]
    names = [r.name for r in model.layers]
    weights = {
        (r.name, s.weight.name): quantize_weight(model.weight(r), s.weight) for r in model.layers for s in (w4, w8)
    }
    rows = {r.name: (SCHEMES[FP32], w4, w8) if r.layer else (SCHEMES[FP32],) for r in model.regions}
    costs = {r.name: {s.kernel: 1e-3 for s in rows[r.name]} for r in model.regions}
    problem = pose(model, Menu(rows), CostTable(costs), None, weights)
    for plan, together in (
        ({}, True),
        (dict.fromkeys(names, w4), True),
        ({names[0]: w4, names[1]: w8}, False),
        ({names[1]: w4, names[2]: w4}, False),
    ):
        found = [r for r in account_regions(problem, plan) if r.bytes is not None]
        assert problem.base("size") + sum(r.bytes or 0 for r in found) == problem.size_bytes(plan)
        assert sum(r.bytes_fp32 or 0 for r in found) == 2 * 4 * side * side, "two weights"
        assert [r.shared_with for r in found] == ([(names[1],), (names[0],), ()] if together else [()] * 3)
        if together:
            assert (found[1].bytes or 0) < (found[0].bytes or 0) / 4, "no more than the nodes that unfold it"
