"""Sums written with their normalization: which ones, and that they compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model import Step, fuse_norms, prepare
from onnxmpq.model.norms import normalized_sums
from onnxmpq.runtimes import SKIP_NORM, probes
from tests.decoders import plain
from tests.graphs import graph, outputs_of

WEIGHTS = "float[8, 8] w, float[8] g, float[8] b"
NORM = "y = LayerNormalization <axis = -1, epsilon = 0.001> (s, g, b)"


def body(text: str, *, inputs: str = "float[N, T, 8] x", outputs: str = "float[N, T, 8] y") -> onnx.ModelProto:
    proto = graph(text, inputs, outputs, WEIGHTS)
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{number}"
    return proto


FOUND = {
    "a residual": f"m = MatMul (x, w) s = Add (x, m) {NORM}",
    "through a split": f"m = MatMul (x, w) a, c = Split <axis = 2, num_outputs = 2> (m) d = Concat <axis = 2> (a, c) "
    f"e = Mul (m, m) s = Add (m, e) {NORM}",
    "a bias and an activation": f"m = MatMul (x, w) n = Add (m, b) o = Relu (n) s = Add (o, x) {NORM}",
    "read again": f"m = MatMul (x, w) s = Add (x, m) {NORM} z = MatMul (s, w)",
}
NOT_FOUND = {
    "of a constant": f"s = Add (x, b) {NORM}",
    "of one row for all": f"r = ReduceMean <keepdims = 1> (x, one) s = Add (x, r) {NORM}",
    "of unknown rows": f"s = Add (x, p) {NORM}",
    "over two axes": "m = MatMul (x, w) s = Add (x, m) y = LayerNormalization <axis = 1> (s, g2)",
}


@pytest.mark.parametrize("name", FOUND)
def test_a_sum_of_two_tensors_with_the_same_rows(name: str) -> None:
    outputs = "float[N, T, 8] y, float[N, T, 8] z" if "z =" in FOUND[name] else "float[N, T, 8] y"
    proto = body(FOUND[name], outputs=outputs)
    [pair] = normalized_sums(proto)
    fused = onnx.ModelProto.FromString(proto.SerializeToString())
    fuse_norms(fused, [pair])
    onnx.checker.check_model(fused)
    assert {n.name for n in proto.graph.node} - {n.name for n in fused.graph.node} == {pair[0]}
    if probes.holds(SKIP_NORM):
        inputs = {"x": np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)}
        before, after = outputs_of(proto, inputs), outputs_of(fused, inputs)
        assert max(float(np.abs(before[o] - after[o]).max()) for o in before) < 1e-4


@pytest.mark.parametrize("name", NOT_FOUND)
def test_no_other_sum(name: str) -> None:
    proto = body(NOT_FOUND[name], inputs="float[N, T, 8] x, float[N, T, 8] p")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((4, 8), np.float32), "g2"))
    assert normalized_sums(proto) == ()


def test_a_sum_that_was_rewritten_stays() -> None:
    """A dialect puts a quantizer between: the normalization does not read the sum as it is."""
    proto = body(FOUND["a residual"])
    [pair] = normalized_sums(proto)
    add, norm = (next(n for n in proto.graph.node if n.name == name) for name in pair)
    add.output[0], clipped = "s/float", helper.make_node("Clip", ["s/float"], ["s"], "clip")
    proto.graph.node.insert(list(proto.graph.node).index(norm), clipped)
    before = proto.SerializeToString(deterministic=True)
    fuse_norms(proto, [pair])
    assert proto.SerializeToString(deterministic=True) == before


def test_prepared_graphs_keep_both() -> None:
    """So that the graph can be cut into blocks where one tensor holds all that was computed before."""
    model = prepare(plain(), added=lambda step: True)
    types = [n.op_type for n in model.structure.graph.node]
    assert "SkipLayerNormalization" not in types
    assert Step.FUSE_NORMS in model.added
    assert len(model.sums) == 1  # the first is of learned positions, whose rows are looked up apart
    assert all(o.type.tensor_type.elem_type == TensorProto.FLOAT for o in model.structure.graph.output)
