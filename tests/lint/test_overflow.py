"""Which graphs the overflow rule speaks of, and with what bound of activation codes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.lint import lint
from tests.lint.cases import INT8_CONV, INT8_MATMUL, KERNEL, MATRIX, OUT_S8, OUT_U8, S8, U8, changed, features, model

INT8_GEMM = INT8_MATMUL.replace("MatMul", "Gemm")
INSIDE = "QuantizeLinear (r, s, z8) d = DequantizeLinear (q, s, z8) "


def messages(proto: onnx.ModelProto, **values: float) -> list[str]:
    """What the rule says of a graph whose weights w are all 127, with other initializers set as given."""
    found = lint(changed(proto, **({"w": 127} | values)), "onnxruntime")
    return [f.message for f in found if f.rule == "overflow"]


def behind(maker: str, extra: str = "") -> onnx.ModelProto:
    """A MatMul by int8 of what `maker` makes of x."""
    return model(f"{maker} q = {INSIDE}{INT8_MATMUL}", MATRIX + extra)


SPEAKS = {
    "matmul": model(U8 + INT8_MATMUL, MATRIX),
    "gemm": model(U8 + INT8_GEMM, MATRIX),
    "gemm with transB": model(
        U8 + "e = DequantizeLinear <axis = 0> (w, sw, zw) y = Gemm <transB = 1> (d, e)",
        "int8[32, 128] w, float[32] sw, int8[32] zw, ",
    ),
    "conv": features(U8 + INT8_CONV + OUT_U8, KERNEL),
    "conv and relu": features(U8 + INT8_CONV.replace("r =", "c =") + " r = Relu (c)" + OUT_U8, KERNEL),
    "grouped conv": features(
        U8 + "e = DequantizeLinear <axis = 0> (w, sw) r = Conv <group = 8> (d, e)" + OUT_U8,
        "int8[32, 2, 1, 1] w, float[32] sw, ",
    ),
    "window of one channel": features(
        U8 + "e = DequantizeLinear <axis = 0> (w, sw) r = Conv <group = 16> (d, e)" + OUT_U8,
        "int8[32, 1, 3, 3] w, float[32] sw, ",
    ),
    "int8 activations": model(S8 + INT8_MATMUL, MATRIX),
    "int8 activations of a conv": features(S8 + INT8_CONV + OUT_S8, KERNEL),
    "behind a maxpool": features(
        U8.replace(" d =", " p =") + "d = MaxPool <kernel_shape = [2, 2]> (p) " + INT8_CONV + OUT_U8, KERNEL
    ),
    "identity": model(U8 + INT8_MATMUL.replace("(w,", "(v,").replace("e =", "v = Identity (w) e ="), MATRIX),
    "MatMulInteger": model(
        "q, t, o = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, o) y = Cast <to = 1> (i)", "int8[128, 32] w, "
    ),
    "QLinearMatMul": model(
        "q = QuantizeLinear (x, s, z8) p = QLinearMatMul (q, s, z8, w, s, z, s, z8) y = DequantizeLinear (p, s, z8)",
        "int8[128, 32] w, ",
    ),
    "QLinearConv": features(
        "q = QuantizeLinear (x, s, z8) p = QLinearConv (q, s, z8, w, s, z, s, z8) y = DequantizeLinear (p, s, z8)",
        "int8[16, 16, 3, 3] w, ",
    ),
    "QAttention": model(
        "q = QuantizeLinear (x, s, z8) p = Reshape (q, k) "
        "y = com.microsoft.QAttention <num_heads = 1> (p, w, v, s, s, , z8, z)",
        "int8[128, 96] w, float[96] v, int64[3] k, ",
        y="float[A, B, C] y",
    ),
    "DynamicQuantizeMatMul": model("y = com.microsoft.DynamicQuantizeMatMul (x, w, s, z)", "int8[128, 32] w, "),
}
SILENT = {
    "depthwise conv": features(
        U8 + "e = DequantizeLinear <axis = 0> (w, sw) r = Conv <group = 16> (d, e)" + OUT_U8,
        "int8[16, 1, 3, 3] w, float[16] sw, ",
    ),
    "float activations": model(INT8_MATMUL.replace("(d,", "(x,"), MATRIX),
    "float result of a conv": features(U8 + INT8_CONV.replace("r =", "y ="), KERNEL),
    "float bias of a gemm": model(U8 + INT8_GEMM.replace("(d, e)", "(d, e, b)"), MATRIX + "float[32] b, "),
    "uint8 weights": model(
        U8 + "e = DequantizeLinear <axis = 1> (w, sw, zw) y = MatMul (d, e)",
        MATRIX.replace("int8", "uint8"),
    ),
    "int8 activations with two readers": model(S8 + INT8_MATMUL.replace("y =", "r =") + " y = Add (r, d)", MATRIX),
    "int8 for both operands": model(
        "q = QuantizeLinear (x, s, z) p = MatMulInteger (q, w, z, z) y = Cast <to = 1> (p)", "int8[128, 32] w, "
    ),
    "weights in blocks": model(
        U8 + "e = DequantizeLinear <axis = 0, block_size = 64> (w, sw) y = MatMul (d, e)",
        "int8[128, 32] w, float[2, 32] sw, ",
    ),
}


@pytest.mark.parametrize("name", SPEAKS)
def test_speaks(name: str) -> None:
    proto = SPEAKS[name]
    [message] = messages(proto)
    shape = next(t.dims for t in proto.graph.initializer if t.name == "w")
    channels = shape[0] if len(shape) == 4 or "transB" in name else shape[-1]
    assert message.startswith(f"{channels} of {channels} channels"), message
    assert messages(proto, w=64) == []


@pytest.mark.parametrize("name", SILENT)
def test_silent(name: str) -> None:
    assert messages(SILENT[name]) == []


def test_only_the_channels_that_overflow_are_counted() -> None:
    codes = np.zeros((128, 32), np.int8)
    codes[2:4, 5] = codes[3:5, 7] = 65, 64  # a pair, and the neighbours of two pairs
    proto = model(U8 + INT8_MATMUL, MATRIX)
    stored = next(t for t in proto.graph.initializer if t.name == "w")
    stored.CopyFrom(onnx.numpy_helper.from_array(codes, "w"))
    [finding] = [f for f in lint(proto, "onnxruntime") if f.rule == "overflow"]
    assert finding.message.startswith("1 of 32 channels")


def test_weights_of_a_constant_node() -> None:
    proto = changed(model(U8 + INT8_MATMUL, MATRIX), w=127)
    [stored] = [t for t in proto.graph.initializer if t.name == "w"]
    constant = onnx.helper.make_node("Constant", [], ["w"], value=stored)
    constant.attribute[0].t.name = ""
    proto.graph.initializer.remove(stored)
    proto.graph.node.insert(0, constant)
    moved = onnx.helper.make_node("Identity", ["w"], ["v"])
    next(n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "w").input[0] = "v"
    proto.graph.node.insert(1, moved)
    assert [m.split(" channels")[0] for m in messages(proto)] == ["32 of 32"]


BOUNDS = {  # what makes the activation -> the largest code of it, with scale s
    "r = Sigmoid (x)": (1 / 200, 200),
    "r = Softmax (x)": (1 / 300, 255),
    "r = Clip (x, , k)": (6 / 160, 160),
    "c = Clip (x, , k) r = Relu (c)": (6 / 160, 160),
    "c = Clip (x, , k) r = Flatten (c)": (6 / 160, 160),
    "c = Sigmoid (x) h = Tanh (x) r = Concat <axis = 0> (c, h)": (1 / 130, 130),
    "c = Clip (x, , k) h = Tanh (x) r = Concat <axis = 0> (c, h)": (6 / 160, 160),
    "r = Relu (x)": (0.01, 255),
    "r = Tanh (x)": (1 / 140.5, 141),
    "c = Clip (x, , k) h = Concat <axis = 0> (c, x) r = Relu (h)": (6 / 160, 255),
    "r = Clip (x, k)": (6 / 160, 255),
}


@pytest.mark.parametrize("maker", BOUNDS)
def test_activation_codes_are_bounded_by_structure(maker: str) -> None:
    scale, code = BOUNDS[maker]
    proto = changed(behind(maker, "float k, "), s=scale, k=6)
    [message] = messages(proto)
    assert f"codes up to {code})" in message
    below = 32767 // code // 2
    assert messages(proto, w=below) == [] and messages(proto, w=below + 1) == [message]


def test_codes_up_to_half_never_overflow() -> None:
    assert messages(changed(behind("r = Sigmoid (x)"), s=1 / 128)) == []


def test_a_clip_that_the_runtime_drops_bounds_nothing() -> None:
    [message] = messages(changed(behind("r = Clip (x, , k)", "float k, "), s=1e-10, k=2e-8))
    assert "codes up to 255)" in message


def test_the_zero_point_is_added() -> None:
    [message] = messages(changed(behind("r = Tanh (x)"), s=1 / 100, z8=100))
    assert "codes up to 200)" in message


def test_int8_codes_are_shifted() -> None:
    proto = model(f"r = Sigmoid (x) q = {INSIDE}{INT8_MATMUL}".replace("z8", "z"), MATRIX)
    [message] = messages(changed(proto, s=1 / 50))
    assert "codes up to 178)" in message


def test_pairs_that_the_runtime_may_join_bound_nothing() -> None:
    first = "c = Sigmoid (x) p = QuantizeLinear (c, {0}, z8) r = DequantizeLinear (p, {0}, z8) "
    [message] = messages(changed(behind(first.format("s2"), "float s2, "), s=1 / 200, s2=1 / 180))
    assert "codes up to 255)" in message
    [message] = messages(changed(behind(first.format("s")), s=1 / 200))
    assert "codes up to 200)" in message


def test_recurrent_weights() -> None:
    body = (
        "r = Unsqueeze (x, b1) l = com.microsoft.DynamicQuantizeLSTM <hidden_size = 8> (r, w, v, , , , , , s, z, s, z) "
    )
    proto = model(body + "y = Flatten (l)", "int64[1] b1, int8[1, 128, 32] w, int8[1, 8, 32] v, ")
    assert [m.split(" channels")[0] for m in messages(proto, v=1)] == ["32 of 64"]
    assert [m.split(" channels")[0] for m in messages(proto, v=-127)] == ["64 of 64"]
