"""Nodes that another tool quantized, and their neighbours, come out as they went in; the rest is quantized."""

from __future__ import annotations

import onnx
import pytest

from onnxmpq.dialects import DIALECTS
from onnxmpq.model import RegionKind
from onnxmpq.schemes import SCHEMES
from tests.dialects.cases import ORT, Case
from tests.dialects.test_explicit import Spelling
from tests.graphs import graph

QUANTIZED = {"shared/Q", "shared/DQ", "weight/DQ"}
NEIGHBOURS = {"maker", "frozen", "sharer"}  # makes what the pair reads; reads what it makes; reads what it reads


def partly_quantized() -> onnx.ModelProto:
    """conv (maker) -> t; t -> Q -> DQ -> conv (frozen, weight behind a DQ); t -> conv (sharer) -> conv (last)."""
    proto = graph(
        """t = Conv <kernel_shape = [1, 1]> (x, w0)
           q = QuantizeLinear (t, s, z)
           d = DequantizeLinear (q, s, z)
           e = DequantizeLinear (wq, s, zw)
           f = Conv <kernel_shape = [1, 1]> (d, e)
           g = Conv <kernel_shape = [1, 1]> (t, w1)
           h = Relu (g)
           k = Conv <kernel_shape = [1, 1]> (h, w2)
           y = Add (f, k)""",
        "float[N, 16, 4, 4] x",
        "float[N, 16, 4, 4] y",
        "float[16, 16, 1, 1] w0, float[16, 16, 1, 1] w1, float[16, 16, 1, 1] w2, float s = {0.05}, uint8 z = {128}, "
        "int8 zw = {0}",
    )
    proto.graph.initializer.append(onnx.helper.make_tensor("wq", onnx.TensorProto.INT8, [16, 16, 1, 1], [3] * 256))
    names = ("maker", "shared/Q", "shared/DQ", "weight/DQ", "frozen", "sharer", "relu", "last", "sum")
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    return proto


SPELLINGS = [("onnxruntime", "int8"), ("onnxruntime", "w4a8"), ("tensorrt", "w8a8-int8"), ("portable", "w8a8-fp8")]


@pytest.mark.parametrize(("dialect", "scheme"), SPELLINGS)
def test_frozen_nodes_stay_as_they_are(dialect: str, scheme: str) -> None:
    case = Case("frozen", partly_quantized())
    assert set(case.model.already_quantized) == QUANTIZED
    assert {r.name for r in case.model.layers} == {"last"}
    assert all(r.kind is RegionKind.FLOAT for r in case.model.regions if r.name in NEIGHBOURS)
    if dialect == "onnxruntime":
        proto = case.rewrite(
            {r.name: SCHEMES[scheme] for r in case.model.layers if ORT.supports(r, SCHEMES[scheme], 21)}
        )
    else:
        proto = Spelling(case, DIALECTS[dialect], SCHEMES[scheme]).rewrite()
    before = {n.name: n for n in case.model.proto.graph.node}
    after = {n.name: n for n in proto.graph.node}
    for name in QUANTIZED | NEIGHBOURS:
        assert after[name] == before[name]
    assert after["last"] != before["last"], "the rest is quantized"
    stored = {t.name: t for t in proto.graph.initializer}
    for tensor in (t for n in QUANTIZED | NEIGHBOURS for t in before[n].input if t in case.model.store):
        assert (
            onnx.numpy_helper.to_array(stored[tensor]).tobytes()
            == onnx.numpy_helper.to_array(case.model.store[tensor]).tobytes()
        )
