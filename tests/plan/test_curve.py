"""The trade-off curve: every point is a plan, none dominates another, and its ends are the cheapest plan and fp32's."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

import onnxmpq
from onnxmpq.allocate import SOLVERS, Limits, solve
from onnxmpq.plan import Axis, Point, to_csv, trade_off
from tests.allocate.problems import random_problem
from tests.conftest import QUICK, SAMPLES


@pytest.mark.parametrize("axis", get_args(Axis))
@pytest.mark.parametrize("seed", range(3))
def test_curve(axis: Axis, seed: int) -> None:
    problem = random_problem("residual", seed)
    curve = trade_off(problem, axis)
    costs = [p.taken[axis] for p in curve]
    effects = [p.effect for p in curve]
    assert costs == sorted(costs) and effects == sorted(effects, reverse=True) and len(set(effects)) == len(effects)
    least = solve(problem, axis, Limits())
    assert least is not None
    assert costs[0] == pytest.approx(problem.total(axis, least.assignment), rel=1e-2)
    assert effects[-1] == pytest.approx(problem.effect({}), abs=max(effects) * 1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_has_a_curve(solver: str) -> None:
    problem = replace(random_problem("residual", 1), solver=solver)
    curve = trade_off(problem, "latency")
    assert [p.number for p in curve] == list(range(1, len(curve) + 1)) and len(curve) > 1
    for point in curve:
        assert point.effect == pytest.approx(problem.effect(point.assignment))
        assert point.taken["latency"] == pytest.approx(problem.total("latency", point.assignment))


def test_csv_reads_back() -> None:
    taken = ({"latency": 1.5e-3, "size": 1000.4}, {"latency": 2e-3, "size": 900})
    points = (Point(taken[0], 0.25, "2 int8, 1 fp32"), Point(taken[1], 0.1, "3 fp32"))
    rows = list(csv.DictReader(to_csv(points).splitlines()))
    assert [float(r["latency_ms"]) for r in rows] == [1.5, 2.0]
    assert [r["size_bytes"] for r in rows] == ["1000", "900"]
    assert rows[0]["schemes"] == "2 int8, 1 fp32"
    assert [r["energy_mj"] for r in rows] == ["", ""], "no figure where the target has none"


def test_energies_are_there_where_the_target_has_them() -> None:
    problem = random_problem("residual", 1)
    assert not problem.table.node_j
    assert all(
        p.figures()["energy_mj"] is None and "energy_mj" not in p.predicted() for p in trade_off(problem, "size")
    )
    joules = {name: dict.fromkeys(row, 1e-3) for name, row in problem.table.node_s.items()}
    known = replace(problem, table=replace(problem.table, node_j=joules))
    for point in trade_off(known, "size"):
        assert point.figures()["energy_mj"] == pytest.approx(len(joules)) == point.predicted()["energy_mj"]


def test_conversion_writes_it(tmp_path: Path) -> None:
    result = onnxmpq.convert(
        SAMPLES / "digits_cnn.onnx",
        size="40%",
        calibration=SAMPLES / "digits_calib.npz",
        samples=12,
        effort=QUICK,
        without=("gptq", "bias-correction"),
        curve=tmp_path / "curve.csv",
    )
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert len(rows) == len(result.report.curve) > 3
    assert int(rows[0]["size_bytes"]) < result.plan.measured["size_bytes"] < int(rows[-1]["size_bytes"])
