"""Branches that are always taken become part of the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.model import prepare
from tests.graphs import graph, outputs_of


def nested(flag: bool, inner: bool) -> onnx.ModelProto:
    """The inner condition is computed in the outer branch. Both branches of the If beside it hand a value through."""
    return graph(
        """y, z = If (flag) <
                then_branch = t () => (float[N, 8] u, float[N, 8] u2) {
                    c = Not (other)  m = MatMul (x, w)
                    u = If (c) <
                        then_branch = tt () => (float[N, 8] v) { v = MatMul (m, w) },
                        else_branch = te () => (float[N, 8] v) { k = Relu (m) v = MatMul (k, w) }
                    >
                    u2 = Identity (m) },
                else_branch = e () => (float[N, 8] u, float[N, 8] u2) { u = Neg (x) u2 = Identity (one) }
            >""",
        "float[N, 8] x",
        "float[N, 8] y, float[N, 8] z",
        f"float[8, 8] w, float[1, 8] one, bool flag = {{{int(flag)}}}, bool other = {{{int(not inner)}}}",
    )


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("flag", [False, True])
def test_branches_that_are_always_taken(flag: bool, inner: bool) -> None:
    proto = nested(flag, inner)
    model = prepare(proto)
    x = {"x": np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)}
    before, after = outputs_of(proto, x), outputs_of(model.proto, x)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-5)
    assert "If" not in {n.op_type for n in model.structure.graph.node}
    assert len(model.layers) == (2 if flag else 0)
    assert set(model.origin) == {n.name for n in model.structure.graph.node}
