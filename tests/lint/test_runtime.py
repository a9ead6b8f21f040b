"""The onnxruntime rules against onnxruntime itself: what they say of a graph is what its default session does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession

from onnxmpq.errors import ModelError
from onnxmpq.lint import lint
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.runtimes.onnxruntime import probes
from tests.graphs import samples_for
from tests.lint.cases import (
    CASES,
    CONV,
    F8,
    INT8_CONV,
    INT8_MATMUL,
    KERNEL,
    MATRIX,
    OUT_F8,
    OUT_U8,
    U8,
    Case,
    changed,
    model,
)
from tests.lint.cases import features as conv_model

ORT = {c.rule: c for c in CASES if c.dialect == "onnxruntime"}


def session(proto: onnx.ModelProto, settings: SessionSettings | None = None) -> InferenceSession:
    """From bytes, so that float8 is not seen beforehand and the session is what every user gets."""
    return open_session(proto.SerializeToString(), settings)


def operators(proto: onnx.ModelProto, folder: Path) -> set[str]:
    """What the default session makes of the graph."""
    path = folder / "optimized.onnx"
    session(proto, SessionSettings(optimized_path=str(path)))
    return {n.op_type for n in onnx.load(path).graph.node}


def loads(proto: onnx.ModelProto) -> bool:
    try:
        session(proto)
    except ModelError:
        return False
    return True


def accused(proto: onnx.ModelProto, rule: str) -> bool:
    return any(f.rule == rule for f in lint(proto, "onnxruntime"))


def differs(proto: onnx.ModelProto) -> bool:
    """Whether the default session computes something else than the graph says."""
    inputs = samples_for(proto, 4 if len(proto.graph.input[0].type.tensor_type.shape.dim) == 2 else 2)
    fused, plain = (run(session(proto, SessionSettings(optimize=o)), inputs)[0] for o in (True, False))
    return float(np.abs(fused - plain).max()) > 0.05 * float(np.abs(plain).max())


@dataclass(frozen=True)
class Fusion:
    """A rule about a fusion, and the operator that it ends in."""

    rule: str
    becomes: str


@pytest.mark.parametrize(
    "fusion",
    [
        Fusion("conv-result", "QLinearConv"),
        Fusion("conv-bias-scale", "QLinearConv"),
        Fusion("gemm-fusion", "QGemm"),
        Fusion("matmul-weight", "MatMulIntegerToFloat"),
        Fusion("weight-only-layout", "MatMulNBits"),
    ],
    ids=lambda fusion: fusion.rule,
)
def test_what_is_not_fused(fusion: Fusion, tmp_path: Path) -> None:
    case = ORT[fusion.rule]
    for proto in (case.breaks, case.keeps):
        assert accused(proto, fusion.rule) == (fusion.becomes not in operators(proto, tmp_path))


def test_weights_of_convolutions_are_folded_or_not(tmp_path: Path) -> None:
    case = ORT["conv-weight"]
    assert "DequantizeLinear" in operators(case.breaks, tmp_path)
    assert not {"Cast", "Mul", "DequantizeLinear"} & operators(case.keeps, tmp_path)


@pytest.mark.parametrize(
    "case",
    [ORT["channel-axis"], ORT["gemm-bias-scale"], ORT["conv-bias-ignored"], ORT["float8-relu"]],
    ids=lambda c: c.rule,
)
def test_what_is_computed_wrongly(case: Case) -> None:
    for proto in (case.breaks, case.keeps):
        assert accused(proto, case.rule) == differs(proto)


@pytest.mark.parametrize("layer", ["MatMul", "Gemm", "Conv"])
def test_what_overflows_where_the_cpu_saturates(layer: str) -> None:
    """Activations at the largest code; tests/runtimes tries the bound itself, to the integer."""
    body = INT8_CONV + OUT_U8.replace(" s,", " s1,") if layer == "Conv" else INT8_MATMUL.replace("MatMul", layer)
    proto = conv_model(U8 + body, KERNEL + "float s1, ") if layer == "Conv" else model(U8 + body, MATRIX)
    for weight, beyond in ((127, True), (64, False)):
        tried = changed(proto, w=weight, s1=2.0)
        inputs = {"x": np.full([d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim], 6, np.float32)}
        fused, plain = (run(session(tried, SessionSettings(optimize=o)), inputs)[0] for o in (True, False))
        assert accused(tried, "overflow") == beyond
        assert np.allclose(fused, plain, rtol=1e-3) == (not beyond or not probes.saturates())


def float8(body: str, weights: str = "") -> onnx.ModelProto:
    return model(F8 + body, weights)


FLOAT8 = {
    "matmul": float8("e = DequantizeLinear (w, s, zf) y = MatMul (d, e)", "float8e4m3fn[128, 32] w, "),
    "matmul int8": float8("e = DequantizeLinear (w, s) y = MatMul (d, e)", "int8[128, 32] w, "),
    "matmul transposed": float8(
        "e = DequantizeLinear (w, s, zf) t = Transpose (e) y = MatMul (d, t)", "float8e4m3fn[32, 128] w, "
    ),
    "matmul reshaped": float8(
        "e = DequantizeLinear (w, s, zf) t = Flatten (e) y = MatMul (d, t)", "float8e4m3fn[128, 32] w, "
    ),
    "matmul int4": float8(
        "e = DequantizeLinear <axis = 0, block_size = 32> (w, sw) y = MatMul (d, e)",
        "int4[128, 32] w, float[4, 32] sw, ",
    ),
    "matmul int4 in float8": float8(
        "e = DequantizeLinear <axis = 0, block_size = 32> (w, sw) eq = QuantizeLinear (e, s, zf) "
        "ed = DequantizeLinear (eq, s, zf) y = MatMul (d, ed)",
        "int4[128, 32] w, float[4, 32] sw, ",
    ),
    "matmul float": float8("y = MatMul (d, w)", "float[128, 32] w, "),
    "matmul float to float8": float8("r = MatMul (d, w)" + OUT_F8, "float[128, 32] w, "),
    "gemm": float8("e = DequantizeLinear (w, s, zf) y = Gemm (d, e)", "float8e4m3fn[128, 32] w, "),
    "gemm without zero point": float8("e = DequantizeLinear (w, s) y = Gemm (d, e)", "float8e4m3fn[128, 32] w, "),
    "gemm float": float8("y = Gemm (d, w)", "float[128, 32] w, "),
    "gemm float to float8": float8("r = Gemm (d, w)" + OUT_F8, "float[128, 32] w, "),
    "conv": conv_model(F8 + f"e = DequantizeLinear (w, s, zf) y = {CONV} (d, e)", "float8e4m3fn[16, 16, 3, 3] w, "),
    "conv to float8": conv_model(
        F8 + f"e = DequantizeLinear (w, s, zf) r = {CONV} (d, e)" + OUT_F8, "float8e4m3fn[16, 16, 3, 3] w, "
    ),
    "conv float to float8": conv_model(F8 + f"r = {CONV} (d, w)" + OUT_F8, "float[16, 16, 3, 3] w, "),
    "add": float8("r = Add (d, d)" + OUT_F8),
    "add float": float8("y = Add (d, d)"),
    "add constant": float8("r = Add (d, w)" + OUT_F8, "float[128] w, "),
    "mul": float8("r = Mul (d, d)" + OUT_F8),
    "concat": float8("r = Concat <axis = 0> (d, d)" + OUT_F8),
    "sigmoid": float8("r = Sigmoid (d)" + OUT_F8),
    "softmax": float8("r = Softmax (d)" + OUT_F8),
    "leaky": float8("r = LeakyRelu (d)" + OUT_F8),
    "average": conv_model(F8 + "r = AveragePool <kernel_shape = [2, 2]> (d)" + OUT_F8),
    "global average": conv_model(F8 + "r = GlobalAveragePool (d)" + OUT_F8),
    "tanh": float8("r = Tanh (d)" + OUT_F8),
    "argmax": float8("a = ArgMax (d) y = Cast <to = 1> (a)"),
    "clip": model("r = Clip (x)" + OUT_F8),
    "clip between": float8("r = Clip (d)" + OUT_F8),
    "reduce min": float8("r = ReduceMin (d)" + OUT_F8),
    "sub": float8("r = Sub (d, d)" + OUT_F8),
    "sigmoid to uint8": float8("r = Sigmoid (d)" + OUT_U8),
    "add of uint8": float8("p = QuantizeLinear (x, s, z8) o = DequantizeLinear (p, s, z8) r = Add (d, o)" + OUT_F8),
    "matmul to uint8": float8(
        "e = DequantizeLinear (w, s, zf) r = MatMul (d, e)" + OUT_U8, "float8e4m3fn[128, 32] w, "
    ),
    "uint8 matmul": model(U8 + "e = DequantizeLinear (w, s, zf) y = MatMul (d, e)", "float8e4m3fn[128, 32] w, "),
    "uint8 gemm": model(U8 + "e = DequantizeLinear (w, s, zf) y = Gemm (d, e)", "float8e4m3fn[128, 32] w, "),
    "uint8 conv": conv_model(
        U8 + f"e = DequantizeLinear (w, s, zf) r = {CONV} (d, e)" + OUT_U8, "float8e4m3fn[16, 16, 3, 3] w, "
    ),
    "where": float8("r = Where (k, d, d)" + OUT_F8, "bool k, "),
    "matmul int4 to float8": float8(
        "e = DequantizeLinear <axis = 0, block_size = 32> (w, sw) r = MatMul (d, e)" + OUT_F8,
        "int4[128, 32] w, float[4, 32] sw, ",
    ),
    "gemm int4 to float8": float8(
        "e = DequantizeLinear <axis = 0, block_size = 32> (w, sw) r = Gemm (d, e)" + OUT_F8,
        "int4[128, 32] w, float[4, 32] sw, ",
    ),
}


MOVED = {  # operator and arguments -> rank of the result, from float[1, 4, 8]
    "Flatten (d)": 2,
    "Gather (d, zi)": 3,
    "Identity (d)": 3,
    "MaxPool <kernel_shape = [1]> (d)": 3,
    "ReduceMax (d)": 3,
    "Reshape (d, i3)": 3,
    "Resize (d, , k)": 3,
    "Slice (d, zi, i1)": 3,
    "Squeeze (d, zi)": 2,
    "Tile (d, i3)": 3,
    "Transpose (d)": 3,
    "Unsqueeze (d, zi)": 4,
}
BEHIND = {"the same grid": OUT_F8, "another grid": OUT_F8.replace(" s,", " s2,"), "float": " y = Abs (r)"}


def moved(call: str, rest: str) -> onnx.ModelProto:
    """float8 values that an operator only moves, on their way to another pair or to a float operator."""
    weights = "int64[1] zi, int64[1] i1, int64[3] i3, float[3] k, float s2, "
    shape = ", ".join("ABCD"[: MOVED[call]])
    proto = model(F8 + f"r = {call}" + rest, weights, "float[1, 4, 8]", f"float[{shape}] y")
    proto = changed(proto, i1=1, i3=1, k=1, s2=0.03)
    for tensor in proto.graph.initializer:
        if tensor.name == "i3" and call.startswith("Reshape"):
            tensor.CopyFrom(onnx.helper.make_tensor("i3", tensor.data_type, [3], [8, 4, 1]))
    return proto


FLOAT8 |= {f"{call} to {what}": moved(call, rest) for call in MOVED for what, rest in BEHIND.items()}


@pytest.mark.parametrize("name", FLOAT8)
def test_float8_loads_where_the_linter_says_so(name: str) -> None:
    proto = FLOAT8[name]
    onnx.checker.check_model(proto, full_check=True)
    assert accused(proto, "float8-fusion") == (not loads(proto))


@pytest.mark.parametrize("name", FLOAT8)
def test_float8_loads_with_quantizers_kept(name: str) -> None:
    assert session(FLOAT8[name], SessionSettings(keep_qdq=True))


def test_a_relu_before_float8_survives_as_the_message_says() -> None:
    case = ORT["float8-relu"]
    inputs = samples_for(case.breaks, 4)
    for finding in lint(case.breaks, "onnxruntime"):
        assert finding.rule != "float8-relu" or "disabled_optimizers=['ReluQuantRewrite']" in finding.message
    raw = case.breaks.SerializeToString()
    kept = InferenceSession(raw, providers=["CPUExecutionProvider"], disabled_optimizers=["ReluQuantRewrite"])
    plain = run(session(case.breaks, SessionSettings(optimize=False)), inputs)[0]
    np.testing.assert_array_equal(run(kept, inputs)[0], plain)


RESULTS = {
    "float weight, quantized": f"r = {CONV} (d, f)" + OUT_U8,
    "quantized": INT8_CONV + OUT_U8,
    "float": INT8_CONV.replace("r =", "y ="),
    "two readers": INT8_CONV + OUT_U8.replace("y =", "v =") + " t = Sigmoid (r) y = Add (v, t)",
    "relu": INT8_CONV.replace("r =", "r0 =") + " r = Relu (r0)" + OUT_U8,
    "relu with room below": INT8_CONV.replace("r =", "r0 =") + " r = Relu (r0)" + OUT_U8.replace("z8", "z1"),
    "clip": INT8_CONV.replace("r =", "r0 =") + " r = Clip (r0, b0, k6)" + OUT_U8,
    "clip at less": INT8_CONV.replace("r =", "r0 =") + " r = Clip (r0, b0, k1)" + OUT_U8,
    "leaky": INT8_CONV.replace("r =", "r0 =") + " r = LeakyRelu (r0)" + OUT_U8,
}


@pytest.mark.parametrize("name", RESULTS)
def test_convolutions_fuse_where_the_linter_says_so(name: str, tmp_path: Path) -> None:
    proto = conv_model(U8 + RESULTS[name], KERNEL + "float[16, 16, 3, 3] f, uint8 z1, float b0, float k6, float k1, ")
    for tensor in proto.graph.initializer:
        if tensor.name in ("k6", "k1", "z1"):
            value = {"k6": 6, "k1": 1, "z1": 100}[tensor.name]
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, [], [value]))
    assert accused(proto, "conv-result") == ("QLinearConv" not in operators(proto, tmp_path))
