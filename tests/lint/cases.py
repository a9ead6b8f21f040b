"""For every rule a graph that breaks it and one that does not, as ONNX text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto

from onnxmpq.runtimes.onnxruntime.probe_graphs import (
    CONV_BIAS_SCALE,
    GEMM_FLOAT_BIAS,
    GEMM_WITHOUT_ZERO_POINT,
    GROUPED_ATTENTION,
    RELU_TO_FLOAT8,
    float8_name,
)

FEATURES = "float[2, 16, 8, 8]"
ROWS = "float[4, 128]"
CONV = "Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
U8 = "q = QuantizeLinear (x, s, z8) d = DequantizeLinear (q, s, z8) "
S8 = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) "
F8 = "q = QuantizeLinear (x, s, zf) d = DequantizeLinear (q, s, zf) "
OUT_U8 = " yq = QuantizeLinear (r, s, z8) y = DequantizeLinear (yq, s, z8)"
OUT_S8 = " yq = QuantizeLinear (r, s, z) y = DequantizeLinear (yq, s, z)"
OUT_F8 = " yq = QuantizeLinear (r, s, zf) y = DequantizeLinear (yq, s, zf)"
ZEROS = "float s, int8 z, uint8 z8, float8e4m3fn zf"  # scale and zero points of activations, in every graph
KERNEL = "int8[16, 16, 3, 3] w, float[16] sw, "
UNEVEN = "int8[16, 16, 3, 3] w, float[16] sv, "
MATRIX = "int8[128, 32] w, float[32] sw, int8[32] zw, "
NIBBLES = "int4[128, 32] w, float[2, 32] sw, "


def model(body: str, weights: str = "", x: str = ROWS, y: str = "float[A, B] y", *, opset: int = 21) -> onnx.ModelProto:
    """A graph from x to y. Every tensor in `weights` becomes an initializer, by the first letter of its name: scales
    (s) are 0.02 (sv: up to 0.02), zero points (z) and biases (b) 0, all others random."""
    head = f'<ir_version: {11 if opset > 21 else 10}, opset_import: ["" : {opset}, "com.microsoft" : 1, "trt" : 1]>'
    proto = onnx.parser.parse_model(f"{head} g ({x} x) => ({y}) <{weights}{ZEROS}> {{ {body} }}")
    generator = np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        kind = info.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        count = int(np.prod(shape))
        if info.name[0] == "s":
            values = np.linspace(0.001, 0.02, count) if info.name == "sv" else np.full(count, 0.02)
        elif info.name[0] in "zb":
            values = np.zeros(count)
        elif kind.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            values = generator.standard_normal(count)
        else:
            values = generator.integers(0, 7, count)
        proto.graph.initializer.append(onnx.helper.make_tensor(info.name, kind.elem_type, shape, values.tolist()))
    del proto.graph.value_info[:]
    return proto


def features(body: str, weights: str = "", *, opset: int = 21) -> onnx.ModelProto:
    return model(body, weights, FEATURES, "float[A, B, C, D] y", opset=opset)


def changed(proto: onnx.ModelProto, **values: float) -> onnx.ModelProto:
    """The same graph with every element of some initializers set to a value."""
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            count = int(np.prod(tensor.dims))
            fresh = onnx.helper.make_tensor(
                tensor.name, tensor.data_type, tensor.dims, np.full(count, values[tensor.name]).tolist()
            )
            tensor.CopyFrom(fresh)
    return proto


BIAS = "h = DequantizeLinear <axis = 0> (b, sb) "


def gemm_with_bias(sb: float) -> onnx.ModelProto:
    """Quantized input, weight and bias of 100; the bias has scale `sb`, where 0.0004 is right."""
    body = "e = DequantizeLinear <axis = 1> (w, sw, zw) y = Gemm (d, e, h)"
    return changed(model(U8 + BIAS + body, MATRIX + "int32[32] b, float[32] sb, "), sb=sb, b=100)


def conv_with_bias(sb: float) -> onnx.ModelProto:
    """As `gemm_with_bias`, with a quantized result."""
    body = f"e = DequantizeLinear <axis = 0> (w, sw) r = {CONV} (d, e, h)" + OUT_U8
    return changed(features(U8 + BIAS + body, KERNEL + "int32[16] b, float[16] sb, "), sb=sb, b=100)


@dataclass(frozen=True)
class Case:
    """breaks: violates `rule` of `dialect`, at a node whose name holds `node`. keeps: does not."""

    rule: str
    dialect: str
    breaks: onnx.ModelProto
    keeps: onnx.ModelProto
    node: str = ""

    @property
    def id(self) -> str:
        return f"{self.dialect}.{self.rule}"


INT8_CONV = f"e = DequantizeLinear <axis = 0> (w, sw) r = {CONV} (d, e)"
UNEVEN_CONV = INT8_CONV.replace("sw", "sv")
INT8_MATMUL = "e = DequantizeLinear <axis = 1> (w, sw, zw) y = MatMul (d, e)"
INT4_MATMUL = "e = DequantizeLinear <axis = 0, block_size = 64> (w, sw) y = MatMul (x, e)"
SHORTCUT = f"e = DequantizeLinear <axis = 0> (w, sw) c = {CONV} (d, e) "

SHARED = (
    Case("valid", "portable", model("y = MatMul (x, x)"), model("y = Relu (x)")),
    Case(
        "opset",
        "tensorrt",
        model(F8 + "y = Relu (d)", opset=17),
        model(F8 + "y = Relu (d)", opset=19),
        "QuantizeLinear",
    ),
    Case(
        "standard-operators",
        "portable",
        model("y = com.microsoft.Gelu (x)"),
        model("y = Gelu (x)"),
        "Gelu",
    ),
    Case(
        "finite-scale",
        "portable",
        changed(model(S8 + "y = Relu (d)"), s=0.0),
        model(S8 + "y = Relu (d)"),
        "QuantizeLinear -> q",
    ),
    Case(
        "scale-count",
        "tensorrt",
        model("e = DequantizeLinear <axis = 1> (w, sw) y = MatMul (x, e)", "int8[128, 32] w, float[30] sw, "),
        model("e = DequantizeLinear <axis = 1> (w, sw) y = MatMul (x, e)", "int8[128, 32] w, float[32] sw, "),
        "DequantizeLinear -> e",
    ),
    Case(
        "channel-axis",
        "tensorrt",
        model(S8 + "e = DequantizeLinear <axis = 0> (w, sw) y = MatMul (d, e)", "int8[128, 32] w, float[128] sw, "),
        model(S8 + INT8_MATMUL, MATRIX),
        "DequantizeLinear -> e",
    ),
    Case(
        "double-rounding",
        "tensorrt",
        model(S8 + "q2 = QuantizeLinear (d, s2, z) d2 = DequantizeLinear (q2, s2, z) y = Relu (d2)", "float[1] s2, "),
        model(S8 + "e = Relu (d) q2 = QuantizeLinear (e, s, z) d2 = DequantizeLinear (q2, s, z) y = Relu (d2)"),
        "QuantizeLinear -> q2",
    ),
)

TENSORRT = (
    Case("symmetric", "tensorrt", changed(model(S8 + "y = Relu (d)"), z=3), model(S8 + "y = Relu (d)"), "-> q"),
    Case("unsigned", "tensorrt", model(U8 + "y = Relu (d)"), model(S8 + "y = Relu (d)"), "-> q"),
    Case(
        "quantized-type",
        "tensorrt",
        model("q = QuantizeLinear (x, s, z5) d = DequantizeLinear (q, s, z5) y = Relu (d)", "float8e5m2 z5, "),
        model(F8 + "y = Relu (d)"),
        "-> q",
    ),
    Case(
        "positive-scale",
        "tensorrt",
        changed(model(INT4_MATMUL, NIBBLES), sw=-0.02),
        model(INT4_MATMUL, NIBBLES),
        "-> e",
    ),
    Case(
        "constant-scale",
        "tensorrt",
        model("m = ReduceMax <keepdims = 0> (x) q = QuantizeLinear (x, m, z) y = DequantizeLinear (q, m, z)"),
        model(S8 + "y = Relu (d)"),
        "-> q",
    ),
    Case(
        "scale-type",
        "tensorrt",
        model("h = Cast <to = 10> (x) q = QuantizeLinear (h, s, z) y = DequantizeLinear (q, s, z)", opset=23),
        model(S8 + "y = Relu (d)"),
        "-> q",
    ),
    Case(
        "activations-per-tensor",
        "tensorrt",
        model("q = QuantizeLinear (x, sc, zc) y = DequantizeLinear (q, sc, zc)", "float[128] sc, int8[128] zc, "),
        model(
            "q = QuantizeLinear (w, sw, zw) d = DequantizeLinear (q, sw, zw) y = MatMul (x, d)",
            "float[128, 32] w, float[32] sw, int8[32] zw, ",
        ),
        "-> q",
    ),
    Case(
        "int4-weights-only",
        "tensorrt",
        model("q = QuantizeLinear (x, s, z4) y = DequantizeLinear (q, s, z4)", "int4 z4, "),
        model(INT4_MATMUL, NIBBLES),
        "-> q",
    ),
    Case(
        "int4-blocks",
        "tensorrt",
        model(
            "e = DequantizeLinear <axis = 0, block_size = 32> (w, sw) y = MatMul (x, e)",
            "int4[128, 32] w, float[4, 32] sw, ",
        ),
        model(INT4_MATMUL, NIBBLES),
        "-> e",
    ),
    Case(
        "int4-readers",
        "tensorrt",
        features(
            f"e = DequantizeLinear <axis = 1, block_size = 16> (w, sw) y = {CONV} (x, e)",
            "int4[16, 16, 3, 3] w, float[16, 1, 3, 3] sw, ",
        ),
        model(INT4_MATMUL, NIBBLES),
        "-> e",
    ),
    Case(
        "int4-even",
        "tensorrt",
        model("e = DequantizeLinear (w, s) y = Mul (x, e)", "int4[1] w, "),
        model("e = DequantizeLinear (w, s) y = Mul (x, e)", "int4[128] w, "),
        "-> e",
    ),
    Case(
        "int4-weight-only",
        "tensorrt",
        model(F8 + INT4_MATMUL.replace("(x,", "(d,"), NIBBLES),
        model(INT4_MATMUL, NIBBLES),
        "MatMul",
    ),
    Case(
        "int4-step",
        "tensorrt",
        model(F8 + INT4_MATMUL.replace("(x,", "(d,"), NIBBLES),
        model(
            F8
            + INT4_MATMUL.replace("y = MatMul (x, e)", "f = QuantizeLinear (e, s, zf) g = DequantizeLinear (f, s, zf) ")
            + "y = MatMul (d, g)",
            NIBBLES,
        ),
        "MatMul",
    ),
    Case(
        "narrow-groups",
        "tensorrt",
        features(
            S8 + "e = DequantizeLinear <axis = 0> (w, sw) "
            "y = Conv <group = 16, kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (d, e)",
            "int8[16, 1, 3, 3] w, float[16] sw, ",
        ),
        features(
            S8 + "e = DequantizeLinear <axis = 0> (w, sw) "
            "y = Conv <group = 4, kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (d, e)",
            "int8[16, 4, 3, 3] w, float[16] sw, ",
        ),
        "Conv",
    ),
    Case(
        "small-products",
        "tensorrt",
        model(S8 + "e = DequantizeLinear <axis = 1> (w, sw) y = MatMul (d, e)", "int8[128, 8] w, float[8] sw, "),
        model(S8 + "e = DequantizeLinear <axis = 1> (w, sw) y = MatMul (d, e)", "int8[128, 16] w, float[16] sw, "),
        "MatMul",
    ),
    Case(
        "int4-blocks",
        "tensorrt",
        model(
            "e = DequantizeLinear <axis = 0, block_size = 64> (w, sw) y = MatMul (x, e)",
            "int4[128, 2, 2] w, float[2, 2, 2] sw, ",
            "float[128, 4, 2]",
            "float[128, 4, 2] y",
        ),
        model(
            "e = DequantizeLinear <axis = 1, block_size = 64> (w, sw) y = MatMul (x, e)",
            "int4[3, 128, 32] w, float[3, 2, 32] sw, ",
            "float[3, 4, 128]",
            "float[3, 4, 32] y",
        ),
        "-> e",
    ),
    Case(
        "float-bias",
        "tensorrt",
        features(
            S8
            + f"e = DequantizeLinear <axis = 0> (w, sw) h = DequantizeLinear <axis = 0> (b, sw) y = {CONV} (d, e, h)",
            KERNEL + "int32[16] b, ",
        ),
        features(S8 + f"e = DequantizeLinear <axis = 0> (w, sw) y = {CONV} (d, e, b)", KERNEL + "float[16] b, "),
        "-> h",
    ),
    Case(
        "pairs",
        "tensorrt",
        model("q = QuantizeLinear (x, s, z) c = Cast <to = 1> (q) y = Relu (c)"),
        model("q = QuantizeLinear (x, s, z) t = Transpose (q) d = DequantizeLinear (t, s, z) y = Relu (d)"),
        "-> q",
    ),
    Case(
        "quantized-ends",
        "tensorrt",
        model("q = QuantizeLinear (x, s, z)", y="int8[4, 128] q"),
        model(S8 + "y = Relu (d)"),
        "-> q",
    ),
    Case(
        "whole-layers",
        "tensorrt",
        model(S8 + "y = MatMul (d, w)", "float[128, 32] w, "),
        model(S8 + INT8_MATMUL, MATRIX),
        "MatMul",
    ),
    Case("one-type", "tensorrt", model(F8 + INT8_MATMUL, MATRIX), model(S8 + INT8_MATMUL, MATRIX), "MatMul"),
    Case(
        "fp8-operators",
        "tensorrt",
        features(F8 + "y = ConvTranspose (d, w)", "float[16, 16, 2, 2] w, "),
        features(S8 + "y = ConvTranspose (d, w)", "float[16, 16, 2, 2] w, "),
        "ConvTranspose",
    ),
    Case(
        "fp8-convolutions",
        "tensorrt",
        features(F8 + f"y = {CONV} (d, w)", "float[8, 16, 3, 3] w, "),
        features(F8 + f"y = {CONV} (d, w)", "float[16, 16, 3, 3] w, "),
        "Conv",
    ),
    Case(
        "residual-add",
        "tensorrt",
        features(S8 + SHORTCUT + "y = Add (c, x)", KERNEL),
        features(S8 + SHORTCUT + "y = Add (c, d)", KERNEL),
        "Add",
    ),
    Case(
        "split-add",
        "tensorrt",
        features(
            S8 + SHORTCUT + "cq = QuantizeLinear (c, s, z) cd = DequantizeLinear (cq, s, z) y = Add (cd, d)", KERNEL
        ),
        features(S8 + SHORTCUT + "y = Add (c, d)", KERNEL),
        "Add",
    ),
    Case(
        "unsupported-operators",
        "tensorrt",
        model("q, t, o = DynamicQuantizeLinear (x) y = DequantizeLinear (q, t, o)"),
        model(S8 + "y = Relu (d)"),
        "DynamicQuantizeLinear",
    ),
)

ONNXRUNTIME = (
    Case(
        "channel-axis",
        "onnxruntime",
        features(U8 + UNEVEN_CONV.replace("axis = 0", "axis = 1") + OUT_U8, UNEVEN),
        features(U8 + UNEVEN_CONV + OUT_U8, UNEVEN),
        "-> e",
    ),
    Case(
        "float8-fusion",
        "onnxruntime",
        model(F8 + "e = DequantizeLinear (w, s, zf) y = MatMul (d, e)", "float8e4m3fn[128, 32] w, "),
        model(F8 + "y = MatMul (d, w)", "float[128, 32] w, "),
        "MatMul",
    ),
    Case(
        "float8-relu",
        "onnxruntime",
        model("r = Relu (x)" + OUT_F8),
        model("t = Tanh (x) r = Abs (t)" + OUT_F8),
        "Relu",
    ),
    Case("float8-speed", "onnxruntime", model(F8 + "y = Relu (d)"), model(U8 + "y = Relu (d)"), "-> q"),
    Case("gemm-bias-scale", "onnxruntime", gemm_with_bias(sb=0.1), gemm_with_bias(sb=0.0004), "Gemm"),
    Case("conv-bias-scale", "onnxruntime", conv_with_bias(sb=0.1), conv_with_bias(sb=0.0004), "Conv"),
    Case("conv-bias-ignored", "onnxruntime", conv_with_bias(sb=0.1), conv_with_bias(sb=0.0004), "Conv"),
    Case("signed-activations", "onnxruntime", model(S8 + "y = Relu (d)"), model(U8 + "y = Relu (d)"), "-> q"),
    Case(
        "wide-activations",
        "onnxruntime",
        model("q = QuantizeLinear (x, s, zw) d = DequantizeLinear (q, s, zw) y = Relu (d)", "uint16 zw, "),
        model(U8 + "y = Relu (d)"),
        "-> q",
    ),
    Case(
        "conv-result",
        "onnxruntime",
        features(U8 + INT8_CONV.replace("r =", "y ="), KERNEL),
        features(U8 + INT8_CONV.replace("r =", "c =") + " r = Relu (c)" + OUT_U8, KERNEL),
        "Conv",
    ),
    Case(
        "conv-weight",
        "onnxruntime",
        features(INT8_CONV.replace("(d,", "(x,").replace("r =", "y ="), KERNEL),
        features(
            f"f = Cast <to = 1> (w) e = Mul (f, sf) y = {CONV} (x, e)",
            "int8[16, 16, 3, 3] w, float[16, 1, 1, 1] sf, ",
        ),
        "Conv",
    ),
    Case(
        "gemm-fusion",
        "onnxruntime",
        model(U8 + "e = DequantizeLinear <axis = 1> (w, sw) y = Gemm (d, e)", MATRIX),
        model(U8 + "e = DequantizeLinear <axis = 1> (w, sw, zw) y = Gemm (d, e)", MATRIX),
        "Gemm",
    ),
    Case(
        "matmul-weight",
        "onnxruntime",
        model(U8 + INT4_MATMUL.replace("(x,", "(d,"), NIBBLES),
        model(U8 + INT8_MATMUL, MATRIX),
        "MatMul",
    ),
    Case(
        "grouped-attention",
        "onnxruntime",
        model(
            "k = Slice (x, zs, ze, zx) y = Attention <q_num_heads = 4, kv_num_heads = 1> (x, k, k)",
            "int64[1] zs = {0}, int64[1] ze = {32}, int64[1] zx = {2}, ",
            "float[2, 5, 128]",
            "float[A, B, C] y",
            opset=23,
        ),
        model(
            "y = Attention <q_num_heads = 4, kv_num_heads = 4> (x, x, x)",
            "",
            "float[2, 5, 128]",
            "float[A, B, C] y",
            opset=23,
        ),
        "Attention",
    ),
    Case(
        "weight-only-layout",
        "onnxruntime",
        model(
            "e = DequantizeLinear <axis = 1, block_size = 64> (w, sw) y = Gemm <transB = 1> (x, e)",
            "int4[32, 128] w, float[32, 2] sw, ",
        ),
        model(INT4_MATMUL.replace("MatMul", "Gemm"), NIBBLES),
        "Gemm",
    ),
    Case(
        "overflow",
        "onnxruntime",
        changed(model(U8 + INT8_MATMUL, MATRIX), w=65),
        changed(model(U8 + INT8_MATMUL, MATRIX), w=64),
        "MatMul",
    ),
)
ONNXRUNTIME_CUDA = (
    Case(
        "executed-pairs",
        "onnxruntime-cuda",
        model(F8 + "y = Relu (d)"),
        model(INT4_MATMUL, NIBBLES),
        "QuantizeLinear",
    ),
)
CASES = (*SHARED, *TENSORRT, *ONNXRUNTIME, *ONNXRUNTIME_CUDA)
STRICT: dict[str, bool] = {  # answers of a made-up runtime that breaks all it can
    float8_name("MatMul", "float", "float8"): False,
    CONV_BIAS_SCALE: False,
    GEMM_WITHOUT_ZERO_POINT: False,
    GEMM_FLOAT_BIAS: False,
    RELU_TO_FLOAT8: False,
    GROUPED_ATTENTION: False,
}
