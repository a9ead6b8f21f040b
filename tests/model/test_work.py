"""Work in bodies of If, Loop and Scan: each weight once an iteration, of an If the branch with more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import pytest

from onnxmpq.model import prepare, work_in_bodies
from tests.bodies import by_rate, convolutions_by_branch, loop_with_lstm, scan_of_a_gated_cell
from tests.graphs import graph, token_model


@dataclass(frozen=True)
class Case:
    """macs, nodes: of one run. shapes: of tensors of the graph, as far as they matter."""

    id: str
    proto: onnx.ModelProto
    macs: int
    nodes: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def bounded(bound: int, go_on: str) -> onnx.ModelProto:
    """A Loop that stacks no results, in a branch. go_on: operator that says whether it does."""
    return graph(
        f"""t = ReduceMean <keepdims = 0> (x)  flag = Greater (t, zero)
           y = If (flag) <
               then_branch = a () => (float[1, 8] u) {{
                   u = Loop (most, , x) <body = l (int64 i, bool c, float[1, 8] s) => (bool d, float[1, 8] r) {{
                       d = {go_on} (c)  r = MatMul (s, w) }}> }},
               else_branch = b () => (float[1, 8] v) {{ v = MatMul (x, w) }}>""",
        "float[1, 8] x",
        "float[1, 8] y",
        f"float[8, 8] w, float zero = {{0}}, int64 most = {{{bound}}}",
    )


CASES = [
    Case("without bodies", token_model(), 0, 0),
    Case("a Loop that stacks results", loop_with_lstm(16), 7 * (2 * 64 * 16 + 16 * 16), 7 * 5, {"y": (7, 16)}),
    Case("a Scan", scan_of_a_gated_cell(16, 8), 9 * 2 * (8 * 16 + 16 * 16), 9 * 12, {"x": (1, 9, 8)}),
    Case("an If", convolutions_by_branch(4, 6), 4 * 4 * 9, 2),
    Case("branches of other operators", by_rate(16), 64 * 64 + 64 * 16, 1),
    Case("a bound", bounded(5, "Identity"), 5 * 64, 1 + 5 * 2),
    Case("a bound that something else undercuts", bounded(2**62, "Not"), 64, 1 + 2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_work_is_counted_by_iterations(case: Case) -> None:
    assert work_in_bodies(prepare(case.proto), case.shapes) == (case.macs, case.nodes)
