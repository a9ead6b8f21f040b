"""The installed TensorRT-RTX builds graphs for devices that are not here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onnx import TensorProto, helper

from onnxmpq.compilers import compile_model
from onnxmpq.errors import UsageError
from onnxmpq.feeds import shares_of
from onnxmpq.isolation import Child
from tests.compilers.graphs import constant, float8, int4_weights, model
from tests.graphs import graph

pytest.importorskip("tensorrt_rtx", reason='needs the compiler: pip install "onnxmpq[tensorrt]"')


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    found = Child("TensorRT-RTX")
    yield found
    found.close()


@pytest.mark.parametrize("capability", ["sm89", "sm120"])
def test_narrow_weights_stay_narrow(child: Child, capability: str) -> None:
    for proto, bits in ((int4_weights(), {"int4": 4}), (float8(), {"float8e4m3fn": 8})):
        found = compile_model(proto, capability, child=child)
        assert found.built and found.widths == bits, found


def test_what_it_refuses_is_told_by_node(child: Child) -> None:
    proto = graph("y = Relu (x) ", "float[4] x", "float[4] y")
    proto.graph.node[0].op_type, proto.graph.node[0].name = "NonsenseOperator", "the culprit"
    found = compile_model(proto, "sm89", child=child)
    assert not found.built
    assert any(m.node == "the culprit" for m in found.errors), found.errors


def test_an_error_of_the_build_is_told(child: Child) -> None:
    """int4 weights with float8 activations, without the step to float8: the parser takes it, the builder does not."""
    proto = model(
        "q = QuantizeLinear (x, a, z) d = DequantizeLinear (q, a, z) "
        "e = DequantizeLinear <axis = 0, block_size = 64> (w, s) y = MatMul (d, e)",
        [
            constant("w", TensorProto.INT4, (256, 512)),
            constant("s", TensorProto.FLOAT, (4, 512)),
            constant("a", TensorProto.FLOAT, ()),
            helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, (), [0.0]),
        ],
    )
    found = compile_model(proto, "sm89", child=child)
    assert not found.built and found.errors
    assert "same type" in found.errors[0].text
    assert "Cuda Runtime" not in found.errors[0].text and "/_src/" not in found.errors[0].text


def test_dynamic_shapes_and_unknown_capabilities(child: Child) -> None:
    proto = graph("y = MatMul (x, w)", "float[N, 64] x", "float[N, 8] y", "float[64, 8] w")
    assert compile_model(proto, "sm89", shares_of({"x": "1x64,16x64"}), child=child).built
    with pytest.raises(UsageError, match="compiles for no 'sm90'"):
        compile_model(proto, "sm90", shares_of({"x": "1x64"}), child=child)
