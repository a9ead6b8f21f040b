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
from tests.graphs import graph, samples_for
from tests.outcomes import QUICK
from tests.tables import int8_pays

SAMPLES = 8


@dataclass(frozen=True)
class Case:
    """A graph, all of whose weights are read in bodies."""

    id: str
    proto: onnx.ModelProto


def loop_with_lstm() -> onnx.ModelProto:
    body = """d = Identity (go)
        all, n, m = LSTM <hidden_size = 64> (p, w, r, , , h, c)
        o = MatMul (n, v)  q = Add (o, p)  t = Squeeze (o, axes)"""
    state = "float[1, 1, 64]"
    return graph(
        f"""a, b, e, y = Loop (four, , x, zeros, zeros) <body = l (int64 i, bool go, {state} p, {state} h, {state} c) =>
                (bool d, {state} q, {state} n, {state} m, float[64] t) {{ {body} }}>""",
        "float[1, 1, 64] x",
        "float[1, 1, 64] a, float[t, 64] y",
        "float[1, 256, 64] w, float[1, 256, 64] r, float[64, 64] v, float[1, 1, 64] zeros, int64 four = {4}, "
        "int64[2] axes = {0, 1}",
    )


def convolutions_by_branch() -> onnx.ModelProto:
    return graph(
        """t = ReduceMean <keepdims = 0> (x)  flag = Greater (t, zero)
           y = If (flag) <
               then_branch = a () => (float[1, 32, 8, 8] u) {
                   p = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)  u = Relu (p) },
               else_branch = b () => (float[1, 32, 8, 8] v) {
                   q = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, k)  v = Tanh (q) }
           >""",
        "float[1, 32, 8, 8] x",
        "float[1, 32, 8, 8] y",
        "float[32, 32, 3, 3] w, float[32, 32, 3, 3] k, float zero = {0}",
    )


def scan_of_a_gated_cell() -> onnx.ModelProto:
    return graph(
        """z, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
               body = b (float[1, 64] h, float[1, 48] e) => (float[1, 64] n, float[1, 64] o) {
                   f = MatMul (e, wz)  g = MatMul (h, uz)  i = Add (f, g)  gate = Sigmoid (i)
                   j = MatMul (e, wn)  k = MatMul (h, un)  l = Add (j, k)  new = Tanh (l)
                   d = Sub (h, new)  m = Mul (gate, d)  n = Add (new, m)  o = Identity (n) }> (start, x)""",
        "float[1, 10, 48] x",
        "float[1, 64] z, float[1, t, 64] y",
        "float[48, 64] wz, float[64, 64] uz, float[48, 64] wn, float[64, 64] un, float[1, 64] start",
    )


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


def by_rate() -> onnx.ModelProto:
    """Two models in one, as of voice activity: the rate says which."""
    return graph(
        """flag = Equal (rate, high)
           y = If (flag) <
               then_branch = a () => (float[3, 1, 1, 48] u) { u, h = LSTM <hidden_size = 48> (x, w, r) },
               else_branch = b () => (float[3, 1, 1, 48] v) { v, g = GRU <hidden_size = 48> (x, k, q) }
           >""",
        "float[3, 1, 64] x, int64 rate",
        "float[a, b, c, d] y",
        "float[1, 192, 64] w, float[1, 192, 48] r, float[1, 144, 64] k, float[1, 144, 48] q, int64 high = {16000}",
    )


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
