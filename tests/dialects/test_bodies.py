"""Weights of layers in bodies of If, Loop and Scan, written: computed as stored, where they are read, and folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.model import Model, prepare, subgraphs
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import SessionSettings, open_session
from onnxmpq.schemes import Scheme, scheme_named
from tests.bodies import Nested, nested
from tests.graphs import graph, outputs_of

SCHEMES = ("fp32", "w8", "w6", "w5", "w4")


def rewritten(model: Model, assignment: dict[str, Scheme]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The written graph, and the prepared one with the same weights as float32 constants."""
    chosen = {n: s for n, s in assignment.items() if not s.is_fp32}
    weights = {
        (key, scheme.weight.name): quantize_weight(model.matrix(place), scheme.weight)
        for key, (region, place) in model.weights.items()
        if (scheme := chosen.get(region.name)) is not None and scheme.weight is not None
    }
    places = {key: place for key, (_, place) in model.weights.items()}
    values = {places[k].tensor: places[k].stored(w.dequantize()) for (k, _), w in weights.items()}
    written = DIALECTS["onnxruntime"].rewrite(Rewrite(model, chosen, {}, weights, model.roots))
    return written, model.with_tensors(values).proto


@given(nested(), st.data())
@settings(max_examples=30, deadline=None)
def test_bodies_compute_with_the_weights_that_are_stored(made: Nested, data: st.DataObject) -> None:
    model = prepare(made.proto)
    by_tensor = {r.params.weight: scheme_named(data.draw(st.sampled_from(SCHEMES))) for r in model.layers}
    written, exact = rewritten(model, {r.name: by_tensor[r.params.weight] for r in model.layers})
    onnx.checker.check_model(written, full_check=True)
    kept = {n.name for n in model.structure.graph.node} - {r.name for r in model.layers if r.op_type == "Identity"}
    assert kept <= {n.name for n in written.graph.node}
    for flag in (False, True):
        for optimize in (False, True):
            found = outputs_of(written, made.inputs(flag), optimize=optimize)["y"]
            np.testing.assert_allclose(found, outputs_of(exact, made.inputs(flag))["y"], atol=2e-4)


def branches() -> onnx.ModelProto:
    """A weight of one branch, one that both read, and one of a Loop in a branch."""
    return graph(
        """y = If (flag) <
               then_branch = t () => (float[N, 32] u) {
                   a = MatMul (x, own) b = MatMul (a, both)
                   u = Loop (two, , b) <body = l (int64 i, bool c, float[N, 32] s) => (bool d, float[N, 32] r) {
                       d = Identity (c)  m = MatMul (s, inner)  r = Tanh (m) }> },
               else_branch = e () => (float[N, 32] v) { v = MatMul (x, both) }
           >""",
        "float[N, 32] x, bool flag",
        "float[N, 32] y",
        "float[32, 32] own, float[32, 32] both, float[32, 32] inner, int64 two = {2}",
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_is_stored_where_it_is_read(scheme: str) -> None:
    model = prepare(branches())
    written, _ = rewritten(model, {r.name: scheme_named(scheme) for r in model.layers})
    assert not any(n.op_type == "Identity" for n in written.graph.node)
    outermost, *inner = subgraphs(written.graph)
    matrices = [[t.name for t in g.initializer if np.prod(t.dims) == 32 * 32] for g in (outermost, *inner)]
    assert sorted(map(len, matrices)) == [0, 1, 1, 1] and len(matrices[0]) == 1, "that of both branches is outside"
    assert not inner[[g.name for g in inner].index("e")].initializer


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sessions_unfold_weights_when_they_are_created(scheme: str, tmp_path: Path) -> None:
    model = prepare(branches())
    written, _ = rewritten(model, {r.name: scheme_named(scheme) for r in model.layers})
    open_session(written, SessionSettings(optimized_path=str(tmp_path / "optimized.onnx")))
    operators = {n.op_type for g in subgraphs(onnx.load(tmp_path / "optimized.onnx").graph) for n in g.node}
    assert not operators & {"Cast", "Mul", "Reshape", "DequantizeLinear"}
