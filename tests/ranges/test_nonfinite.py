"""The node that is named is the first whose outputs are not finite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.model.tidy import name_nodes
from onnxmpq.ranges import explain_nonfinite
from onnxmpq.ranges.nonfinite import NODES_AT_ONCE
from tests.graphs import graph


@dataclass(frozen=True)
class Case:
    id: str
    body: str
    message: str
    value: float = 1.0


CASES = [
    Case("finite", "y = Exp (x)", ""),
    Case("NaN", "a = Neg (x)  b = Sqrt (a)  y = Relu (b)", "NaN first appears at node 'Sqrt_1' (Sqrt)"),
    Case("infinity", "a = Exp (x)  y = Neg (a)", "infinity first appears at node 'Exp_0' (Exp)", 1e4),
    Case(
        "infinity, then NaN",
        "a = Exp (x)  b = Relu (a)  c = Sub (b, a)  y = Neg (c)",
        "NaN first appears at node 'Sub_2' (Sub); infinity first appears at node 'Exp_0' (Exp)",
        1e4,
    ),
    Case(
        "far down",
        "t0 = Relu (x)"
        + "".join(f"  t{i + 1} = Relu (t{i})" for i in range(2 * NODES_AT_ONCE))
        + f"  a = Neg (t{2 * NODES_AT_ONCE})  y = Log (a)",
        f"NaN first appears at node 'Log_{2 * NODES_AT_ONCE + 2}' (Log)",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_first_node(case: Case) -> None:
    proto = graph(case.body, "float[N, 2] x", "float[N, 2] y")
    name_nodes(proto.graph)
    assert explain_nonfinite(proto, {"x": np.full((1, 2), case.value, np.float32)}) == case.message


def test_weights_that_hold_it() -> None:
    proto = graph("a = Relu (x)  y = MatMul (a, w)", "float[N, 2] x", "float[N, 2] y", "float[2, 2] w")
    name_nodes(proto.graph)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((2, 2), np.nan, np.float32), "w"))
    found = explain_nonfinite(proto, {"x": np.ones((1, 2), np.float32)})
    assert found == "NaN first appears at node 'MatMul_1' (MatMul), whose weights 'w' hold it"
