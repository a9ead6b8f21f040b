"""Models whose weights are in bodies of If, Loop and Scan: smaller, and cautious where a branch is never taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.plan import Plan
from tests.bodies import by_rate, convolutions_by_branch, loop_with_lstm, scan_of_a_gated_cell
from tests.graphs import samples_for
from tests.outcomes import QUICK
from tests.tables import int8_pays

SAMPLES = 8


@dataclass(frozen=True)
class Case:
    """A graph, all of whose weights are read in bodies."""

    id: str
    proto: onnx.ModelProto


CASES = [
    Case("a Loop with an LSTM", loop_with_lstm()),
    Case("an If with Conv branches", convolutions_by_branch()),
    Case("a Scan of a gated cell", scan_of_a_gated_cell()),
]


def converted(proto: onnx.ModelProto, folder: Path, samples: Any, **asked: Any) -> Any:
    return onnxmpq.convert(
        proto, calibration=samples, cost_table=int8_pays(proto, folder), effort=QUICK, cache=False, **asked
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize(("share", "sqnr_db"), [(32, 35), (22, 12)], ids=["8 bits", "4 bits"])
def test_bodies_become_smaller(case: Case, share: int, sqnr_db: float, tmp_path: Path) -> None:
    x = samples_for(case.proto, SAMPLES)["x"]
    signs = np.arange(SAMPLES).reshape(-1, *[1] * (x.ndim - 1)) % 2 - 0.5  # both branches are taken
    result = converted(case.proto, tmp_path, {"x": x + signs.astype(np.float32)}, size=f"{share}%", guard=False)
    assert result.report.result_bytes <= share / 100 * result.report.original_bytes
    assert all(o.sqnr_db > sqnr_db for o in result.report.validation.outputs)
    again = Plan.from_json(result.plan.to_json())
    assert onnxmpq.apply(case.proto, again) == result.model


def with_rates(*rates: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    every = [(rate, generator.standard_normal((3, 1, 64)).astype(np.float32)) for rate in rates * SAMPLES]
    return [{"x": x, "rate": np.array(rate, np.int64)} for rate, x in every]


def schemes(plan: Plan, operator: str) -> set[str]:
    """Of the weights that a branch reads, by the operator in it."""
    return {r.scheme for r in plan.layers if r.node.startswith(operator)}


def test_a_branch_that_is_never_taken_keeps_8_bits(tmp_path: Path) -> None:
    result = converted(by_rate(), tmp_path, with_rates(16000), size="smallest", guard=False)
    assert schemes(result.plan, "LSTM") == {"w4"} and schemes(result.plan, "GRU") == {"w8"}
    [note] = [n for n in result.plan.notes if "never taken" in n]
    assert "GRU" in note and "(w8)" in note and "LSTM" not in note


def test_branches_that_are_both_taken(tmp_path: Path) -> None:
    result = converted(by_rate(), tmp_path, with_rates(16000, 8000), size="smallest", guard=False)
    assert schemes(result.plan, "LSTM") == schemes(result.plan, "GRU") == {"w4"}
    assert not any("never taken" in n for n in result.plan.notes)


def test_fewer_bits_can_be_asked_for_by_name(tmp_path: Path) -> None:
    result = converted(by_rate(), tmp_path, with_rates(16000), size="smallest", guard=False, schemes=["w5", "w8"])
    assert schemes(result.plan, "GRU") == {"w5"}
    assert any("GRU" in n and "(w5)" in n for n in result.plan.notes)
