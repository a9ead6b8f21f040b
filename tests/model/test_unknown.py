"""Layers behind operators that ONNX does not know."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from onnxmpq.model import prepare
from onnxmpq.model.unknown import float_by_use
from tests.graphs import fill, graph, outputs_of


def optimised() -> onnx.ModelProto:
    """What onnxruntime's own optimisers leave: no types are recorded."""
    return fill(
        onnx.parser.parse_model(
            """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
            g (float[N, 6, 32] x) => (float[a, b, c] y)
            <float[32, 32] w, float[32, 32] v, float[32] scale, float[32] bias, int64[3] s = {-1, 6, 32}> {
                h = MatMul (x, w)
                k = com.microsoft.Gelu (h)
                n = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (k, x, scale, bias)
                f = Reshape (n, s)
                q = MatMul (f, v)
                r = Relu (q)
                y = MatMul (r, w)
            }"""
        )
    )


def test_layers_behind_unknown_operators_are_found() -> None:
    model = prepare(optimised())
    assert [r.pattern for r in model.layers] == ["MatMul", "MatMul+Relu", "MatMul"]
    assert all(r.inputs and r.outputs for r in model.layers)
    x = {"x": np.random.default_rng(0).standard_normal((1, 6, 32)).astype(np.float32)}
    np.testing.assert_allclose(outputs_of(model.proto, x)["y"], outputs_of(optimised(), x)["y"], atol=1e-5)


def test_a_layer_that_reads_what_nobody_knows_is_none() -> None:
    proto = fill(
        onnx.parser.parse_model(
            """<ir_version: 10, opset_import: ["" : 21, "else" : 1]> g (float[N, 4] x) => (float[N, 4] y)
            <float[4, 4] w> { i = else.Something (x)  e = Gather (w, i)  k = else.Other (e)  y = MatMul (e, w) }"""
        )
    )
    assert all(r.outputs for r in prepare(proto).layers)


def test_types_follow_what_is_shared() -> None:
    proto = graph(
        "b = Add (a, w)  d = Cast <to = 7> (c)  e = Reshape (f, d)  g = Mul (e, b)  y = Relu (h)", "float x", "float y"
    )
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    assert float_by_use(proto.graph.node, {"w": float32, "d": int64}) == {"a", "b", "g", "e", "f"}
    assert float_by_use(proto.graph.node, {"w": int64, "d": int64}) == set()
