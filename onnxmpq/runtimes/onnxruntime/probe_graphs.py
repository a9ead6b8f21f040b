"""The questions that are put to onnxruntime, each with the tiny graph that answers it.

A rule about a runtime is a row here. Nothing in this table is an answer: those are computed on the onnxruntime and the
CPU at hand (`probes.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx.parser

Kind = Literal["loads", "fuses", "folds", "keeps", "saturates", "exact", "layout", "agrees"]
ROWS, IMAGE = "float[4, 64]", "float[1, 16, 8, 8]"
CONV = "Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
_F8_IN = "q = QuantizeLinear (x, s, zf) d = DequantizeLinear (q, s, zf) "
_U8_IN = "q = QuantizeLinear (x, s, zu) d = DequantizeLinear (q, s, zu) "
_U8_OUT = " t = QuantizeLinear (r, s, zu) y = DequantizeLinear (t, s, zu)"
_OUT = {
    "float": " y = Abs (r)",
    "uint8": _U8_OUT,
    "the same grid": " t = QuantizeLinear (r, s, zf) y = DequantizeLinear (t, s, zf)",
    "another grid": " t = QuantizeLinear (r, s2, zf) y = DequantizeLinear (t, s2, zf)",
}
_PARAMETERS = "float s, float s2, float8e4m3fn zf, uint8 zu, int8 zi"


@dataclass(frozen=True)
class Probe:
    """A question about onnxruntime and the graph that answers it.

    kind, and what its answer means:
      loads      the default session opens the graph
      fuses      the optimised graph holds the operator `becomes`
      folds      as fuses, and no Cast, Mul or DequantizeLinear of constants is left
      keeps      the default session computes what the graph does without optimisation
      saturates  the default session differs from exact integer arithmetic
      exact      the default session computes what exact integer arithmetic does
      agrees     the default session computes what the graph says: y, a difference of two spellings, is 0
      layout     the optimised graph holds `becomes`, an operator or an attribute of one
    body: ONNX text from x to y. weights: declarations of its initializers; a scale (s...) is 0.02, a zero point
    (z...) 0, codes and floats are 1 or as `values` says. x: type of the input. exact: of saturates and exact, every
    element of the exact result. opset: with its IR version.
    """

    name: str
    kind: Kind
    body: str
    weights: str = ""
    x: str = ROWS
    becomes: str = ""
    values: tuple[tuple[str, float], ...] = ()
    exact: int = 0
    opset: tuple[int, int] = (21, 10)  # what the oldest supported onnxruntime reads

    def graph(self) -> onnx.ModelProto:
        declared = ", ".join(part for part in (self.weights, _PARAMETERS) if part)
        own = "com.microsoft." in self.body
        opset, ir_version = self.opset
        imports = f'"" : {opset}, "com.microsoft" : 1' if own else f'"" : {opset}'
        head = f"<ir_version: {ir_version}, opset_import: [{imports}]>"
        proto = onnx.parser.parse_model(f"{head} g ({self.x} x) => (float[N] y) <{declared}> {{ {self.body} }}")
        if not own:
            proto.graph.output[0].type.tensor_type.ClearField("shape")  # inferred below
        chosen = {"s2": 0.03, **dict(self.values)}
        for info in proto.graph.value_info:
            shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
            value = chosen.get(info.name, {"s": 0.02, "z": 0.0}.get(info.name[0], 1.0))
            content = np.full(int(np.prod(shape)), value).tolist()
            proto.graph.initializer.append(
                onnx.helper.make_tensor(info.name, info.type.tensor_type.elem_type, shape, content)
            )
        del proto.graph.value_info[:]
        return onnx.shape_inference.infer_shapes(proto)


# ---- float8 in the default session --------------------------------------------------------------

_ONE_INPUT = {  # operator -> call on a rank-4 tensor d, with the constants that it needs
    "Abs": ("Abs (d)", ""),
    "ArgMax": ("ArgMax (d)", ""),
    "AveragePool": ("AveragePool <kernel_shape = [2, 2]> (d)", ""),
    "Clip": ("Clip (d)", ""),
    "DepthToSpace": ("DepthToSpace <blocksize = 2> (d)", ""),
    "Erf": ("Erf (d)", ""),
    "Expand": ("Expand (d, i4)", "int64[4] i4"),
    "Flatten": ("Flatten (d)", ""),
    "Gather": ("Gather (d, z1)", "int64[1] z1"),
    "GlobalAveragePool": ("GlobalAveragePool (d)", ""),
    "HardSigmoid": ("HardSigmoid (d)", ""),
    "HardSwish": ("HardSwish (d)", ""),
    "Identity": ("Identity (d)", ""),
    "LeakyRelu": ("LeakyRelu (d)", ""),
    "MaxPool": ("MaxPool <kernel_shape = [2, 2]> (d)", ""),
    "Pad": ("Pad (d, z8)", "int64[8] z8"),
    "ReduceMax": ("ReduceMax (d)", ""),
    "ReduceMean": ("ReduceMean (d)", ""),
    "ReduceMin": ("ReduceMin (d)", ""),
    "Relu": ("Relu (d)", ""),
    "Reshape": ("Reshape (d, i1)", "int64[1] i1"),
    "Resize": ("Resize (d, , k)", "float[4] k"),
    "Sigmoid": ("Sigmoid (d)", ""),
    "Slice": ("Slice (d, z1, i1)", "int64[1] z1, int64[1] i1"),
    "Softmax": ("Softmax (d)", ""),
    "SpaceToDepth": ("SpaceToDepth <blocksize = 2> (d)", ""),
    "Squeeze": ("Squeeze (d, z1)", "int64[1] z1"),
    "Tanh": ("Tanh (d)", ""),
    "Tile": ("Tile (d, i4)", "int64[4] i4"),
    "Transpose": ("Transpose (d)", ""),
    "Unsqueeze": ("Unsqueeze (d, z1)", "int64[1] z1"),
}
_SEVERAL_INPUTS = {
    "Add": ("Add (d, d)", ""),
    "Concat": ("Concat <axis = 0> (d, d)", ""),
    "Div": ("Div (d, d)", ""),
    "Max": ("Max (d, d)", ""),
    "Min": ("Min (d, d)", ""),
    "Mul": ("Mul (d, d)", ""),
    "Sub": ("Sub (d, d)", ""),
    "Where": ("Where (k, d, d)", "bool k"),
}
OPERATORS: frozenset[str] = frozenset(_ONE_INPUT) | frozenset(_SEVERAL_INPUTS)
"""Operators without weights that were tried with float8 around them."""
_WEIGHTS = {  # how the second input of a layer is stored -> its node, type, and what else it needs
    "float": ("", "float{shape} e", ""),
    "float8": ("e = DequantizeLinear (w, s, zf) ", "float8e4m3fn{shape} w", ""),
    "float8 without zero point": ("e = DequantizeLinear (w, s) ", "float8e4m3fn{shape} w", ""),
    "int8": ("e = DequantizeLinear (w, s, zi) ", "int8{shape} w", ""),
    "int8 without zero point": ("e = DequantizeLinear (w, s) ", "int8{shape} w", ""),
    "int4": ("e = DequantizeLinear <axis = 0, block_size = 32> (w, sb) ", "int4{shape} w", "float{blocks} sb"),
}
_LAYERS = {  # operator -> call, shape of its weight, shape of the scales of blocks, type of x
    "Conv": (f"{CONV} (d, e)", "[16, 16, 3, 3]", "", IMAGE),
    "Gemm": ("Gemm (d, e)", "[64, 32]", "[2, 32]", ROWS),
    "MatMul": ("MatMul (d, e)", "[64, 32]", "[2, 32]", ROWS),
}


def float8_name(op: str, result: str, weight: str = "", data: str = "float8") -> str:
    """The probe of an operator with float8 around it. result: "float", "uint8", or "the same grid" or "another
    grid" of a float8 QuantizeLinear. weight: of `WEIGHTS`, "" for an operator without. data: float8 or uint8."""
    return f"{data} {op}{f' by {weight}' if weight else ''} to {result}"


def _float8() -> Iterator[Probe]:
    for result, rest in _OUT.items():
        for op, (call, weights) in (_ONE_INPUT | _SEVERAL_INPUTS).items():
            cast = " c = Cast <to = 1> (r)" if op == "ArgMax" else ""
            behind = rest.replace("(r", "(c") if cast else rest
            values = (("i1", -1.0),) if op == "Reshape" else ()
            body = f"{_F8_IN}r = {call}{cast}{behind}"
            yield Probe(float8_name(op, result), "loads", body, weights, IMAGE, values=values)
        for data, start in (("float8", _F8_IN), ("uint8", _U8_IN)):
            for op, (call, shape, blocks, x) in _LAYERS.items():
                for weight, (node, declared, scales) in _WEIGHTS.items():
                    if (weight == "int4" and not blocks) or (data == "uint8" and not weight.startswith("float8")):
                        continue
                    parts = ", ".join(p for p in (declared.format(shape=shape), scales.format(blocks=blocks)) if p)
                    body = f"{start}{node}r = {call}{rest}"
                    yield Probe(float8_name(op, result, weight, data), "loads", body, parts, x)


CLIP_TO_FLOAT8 = "float Clip to float8"
RELU_TO_FLOAT8 = "float Relu to float8"
_FLOAT8 = (
    *_float8(),
    Probe(CLIP_TO_FLOAT8, "loads", "r = Clip (x)" + _OUT["the same grid"]),
    Probe(RELU_TO_FLOAT8, "keeps", "r = Relu (x)" + _OUT["the same grid"]),
)

# ---- what becomes an integer kernel -------------------------------------------------------------

GEMM_WITHOUT_ZERO_POINT = "uint8 Gemm by int8 without zero point"
GEMM_FLOAT_BIAS = "uint8 Gemm by int8 with a float bias"
CONV_BIAS_SCALE = "uint8 Conv by int8 with a bias of another scale"
_MATRIX, _KERNEL = "int8[64, 32] w", "int8[16, 16, 3, 3] w"
_BY_INT8, _BIAS = "e = DequantizeLinear (w, s, zi) ", "h = DequantizeLinear (b, sb) "
_INT8_CONV = f"{_U8_IN}{_BY_INT8}r = {CONV} (d, e){_U8_OUT}"


def blocks_name(op: str, element: str) -> str:
    """The probe of a layer whose weight is stored in blocks. element: int4 or int8."""
    return f"float {op} by blocks of {element}"


_FUSES = (
    Probe(
        "uint8 Conv by int8", "fuses", f"{_U8_IN}{_BY_INT8}r = {CONV} (d, e){_U8_OUT}", _KERNEL, IMAGE, "QLinearConv"
    ),
    Probe(
        CONV_BIAS_SCALE,
        "fuses",
        f"{_U8_IN}{_BY_INT8}{_BIAS}r = {CONV} (d, e, h){_U8_OUT}",
        f"{_KERNEL}, int32[16] b, float sb",
        IMAGE,
        "QLinearConv",
        (("sb", 0.1),),
    ),
    Probe(
        "uint8 MatMul by int8 to float",
        "fuses",
        f"{_U8_IN}{_BY_INT8}y = MatMul (d, e)",
        _MATRIX,
        becomes="MatMulIntegerToFloat",
    ),
    Probe(
        "uint8 MatMul by int8 to uint8",
        "fuses",
        f"{_U8_IN}{_BY_INT8}r = MatMul (d, e){_U8_OUT}",
        _MATRIX,
        becomes="QLinearMatMul",
    ),
    Probe("uint8 Gemm by int8", "fuses", f"{_U8_IN}{_BY_INT8}y = Gemm (d, e)", _MATRIX, becomes="QGemm"),
    Probe(
        GEMM_WITHOUT_ZERO_POINT,
        "fuses",
        f"{_U8_IN}e = DequantizeLinear (w, s) y = Gemm (d, e)",
        _MATRIX,
        becomes="QGemm",
    ),
    Probe(
        GEMM_FLOAT_BIAS,
        "fuses",
        f"{_U8_IN}{_BY_INT8}y = Gemm (d, e, b)",
        f"{_MATRIX}, float[32] b",
        becomes="QGemm",
    ),
    *(
        Probe(
            blocks_name(op, kind),
            "fuses",
            f"e = DequantizeLinear <axis = 0, block_size = 32> (w, sb) y = {op} (x, e)",
            f"{kind}[64, 32] w, float[2, 32] sb",
            becomes="MatMulNBits",
        )
        for op in ("MatMul", "Gemm")
        for kind in ("int4", "int8")
    ),
    Probe(
        "uint8 Conv by int4 unfolded with Cast and Mul",
        "folds",
        f"{_U8_IN}a = Cast <to = 6> (w) m = Mul (a, k) c = Cast <to = 3> (m) e = DequantizeLinear (c, s) "
        f"r = {CONV} (d, e){_U8_OUT}",
        "int4[16, 16, 3, 3] w, int32[16, 1, 1, 1] k",
        IMAGE,
        "QLinearConv",
    ),
    *(
        Probe(f"uint8 {op}", "fuses", f"{_U8_IN}r = {call}{_U8_OUT}", x=IMAGE, becomes=becomes)
        for op, call, becomes in (
            ("Add", "Add (d, d)", "QLinearAdd"),
            ("AveragePool", "AveragePool <kernel_shape = [2, 2]> (d)", "QLinearAveragePool"),
            ("Concat", "Concat <axis = 1> (d, d)", "QLinearConcat"),
            ("GlobalAveragePool", "GlobalAveragePool (d)", "QLinearGlobalAveragePool"),
            ("LeakyRelu", "LeakyRelu (d)", "QLinearLeakyRelu"),
            ("Mul", "Mul (d, d)", "QLinearMul"),
            ("Sigmoid", "Sigmoid (d)", "QLinearSigmoid"),
            ("Softmax", "Softmax (d)", "QLinearSoftmax"),
        )
    ),
)

# ---- what saturates -----------------------------------------------------------------------------

# Codes of 255 and weights of 127: two neighbouring products are 64770, and 16 bits hold 32767. With scales of 1 the
# exact sum is an integer that float32 holds; a quantized result has the scale that makes the exact one 255.
_FULL = "q = QuantizeLinear (x, one, zu) d = DequantizeLinear (q, one, zu) e = DequantizeLinear (w, one, zi) "
_FULL_OUT = " t = QuantizeLinear (r, top, zu) y = DequantizeLinear (t, top, zu)"


def _saturates(name: str, call: str, weight: str, x: str, products: int, *, quantized: bool = True) -> Probe:
    """products: summed for an element of the result. quantized: whether that is quantized again."""
    body = f"{_FULL}r = {call}{_FULL_OUT}" if quantized else f"{_FULL}y = {call}"
    values = (("w", 127.0), ("top", 127.0 * products))
    weights = f"{weight}, float one, float top" if quantized else f"{weight}, float one"
    exact = 255 * 127 * products
    return Probe(f"uint8 {name} by int8 saturates", "saturates", body, weights, x, values=values, exact=exact)


# DynamicQuantizeLSTM finds a scale of 1 for inputs of 255. Its gate of candidates and its output are the identity, and
# its other gates 1, so that its state is the sum of the products by W, and of those by R of the state before.


def _lstm(name: str, kind: Kind, call: str, weights: str, x: str, weight: tuple[str, float], exact: int) -> Probe:
    """call: attributes and inputs, up to the scales of the weights. weights: declarations of its other constants."""
    ways = 2 if "bidirectional" in call else 1
    gates = {"activations": '"Affine", "Affine", "Affine"', "activation_alpha": "0.0, 1.0, 1.0"}
    gates["activation_beta"] = "1.0, 0.0, 0.0"
    attributes = ", ".join(f"{key} = [{', '.join([values] * ways)}]" for key, values in gates.items())
    node = call.replace("<", f"<{attributes}, ").replace(")", ", , , one, zi1, one, zi1)")
    body = f"o, n, c = com.microsoft.DynamicQuantizeLSTM {node} y = Reshape (n, flat)"
    more = f"float[{ways}] one, int8[{ways}] zi1, int64[1] flat"
    return Probe(name, kind, body, f"{weights}, {more}", x, values=(weight, ("flat", -1)), exact=exact)


_SATURATES = (
    _saturates("MatMul", "MatMul (d, e)", "int8[64, 32] w", ROWS, 64, quantized=False),
    _saturates("Gemm", "Gemm (d, e)", "int8[64, 32] w", ROWS, 64, quantized=False),
    _saturates("Conv", "Conv <kernel_shape = [3, 3]> (d, e)", _KERNEL, IMAGE, 144),
    _saturates("Conv 1x1", "Conv <kernel_shape = [1, 1]> (d, e)", "int8[32, 16, 1, 1] w", IMAGE, 16),
    _saturates("depthwise Conv", "Conv <kernel_shape = [3, 3], group = 16> (d, e)", "int8[16, 1, 3, 3] w", IMAGE, 9),
    _lstm(
        "uint8 LSTM by int8 saturates",
        "saturates",
        "<hidden_size = 8> (x, w, zr, , , )",
        "int8[1, 64, 32] w, int8[1, 8, 32] zr",
        "float[1, 4, 64]",
        ("w", 127.0),
        255 * 127 * 64,
    ),
)

# ---- kernels that quantize what they read -------------------------------------------------------

# Weights at the edge of the bound on pairs: two of 64, whose products with 255 are 32640.
DYNAMIC_LSTM = ("DynamicQuantizeLSTM is exact in its inputs", "DynamicQuantizeLSTM is exact in its states")
_EXACT = (
    _lstm(  # three steps in both directions, the last of which is the sum of all
        DYNAMIC_LSTM[0],
        "exact",
        '<hidden_size = 8, direction = "bidirectional"> (x, w, zr, , , )',
        "int8[2, 64, 32] w, int8[2, 8, 32] zr",
        "float[3, 4, 64]",
        ("w", 64.0),
        3 * 255 * 64 * 64,
    ),
    _lstm(
        DYNAMIC_LSTM[1],
        "exact",
        "<hidden_size = 64> (zx, zw, r, , , x)",
        "float[1, 4, 4] zx, int8[1, 4, 256] zw, int8[1, 64, 256] r",
        "float[1, 4, 64]",
        ("r", 64.0),
        255 * 64 * 64,
    ),
)

# ---- attention as one operator ------------------------------------------------------------------

ATTENTION, GROUPED_ATTENTION = "Attention with a cache", "Attention with a cache and fewer heads of keys and values"


def _attention(name: str, heads: int) -> Probe:
    """Attention by tokens and by heads against its parts: 6 heads of 8 numbers for queries and so many for keys and
    values, 5 tokens behind 5 others, 2 samples, and a mask of any numbers that both samples share."""
    size, times = 8 * heads, 6 // heads
    body = f"""
        k = Slice (x, zero, until, axis) v = Slice (x, from, end, axis)
        kc = Reshape (k, cut) vc = Reshape (v, cut) qc = Reshape (x, cut6)
        kh = Transpose <perm = [0, 2, 1, 3]> (kc) vh = Transpose <perm = [0, 2, 1, 3]> (vc)
        qh = Transpose <perm = [0, 2, 1, 3]> (qc)
        pk = Mul (vh, half) pv = Mul (kh, half)
        row = Slice (x, zero, one, zero) short = Slice (row, zero, ten, axis) m = Unsqueeze (short, zero)
        a, ak, av = Attention <q_num_heads = 6, kv_num_heads = {heads}, scale = 0.3> (x, k, v, m, pk, pv)
        b, bk, bv = Attention <scale = 0.3> (qh, kh, vh, m, pk, pv)
        ck = Concat <axis = 2> (pk, kh) cv = Concat <axis = 2> (pv, vh)
        uk = Unsqueeze (ck, axis) uv = Unsqueeze (cv, axis)
        ek = Expand (uk, wide) ev = Expand (uv, wide) rk = Reshape (ek, all) rv = Reshape (ev, all)
        tk = Transpose <perm = [0, 1, 3, 2]> (rk) h = MatMul (qh, tk) t = Mul (h, scale) w = Add (t, m)
        p = Softmax (w) o = MatMul (p, rv)
        ac = Reshape (a, cut6) ah = Transpose <perm = [0, 2, 1, 3]> (ac)
        d0 = Sub (ah, o) d1 = Sub (b, o) d2 = Sub (ak, ck) d3 = Sub (av, cv) d4 = Sub (bk, ck) d5 = Sub (bv, cv)
        f0 = Reshape (d0, flat) f1 = Reshape (d1, flat) f2 = Reshape (d2, flat)
        f3 = Reshape (d3, flat) f4 = Reshape (d4, flat) f5 = Reshape (d5, flat)
        y = Concat <axis = 0> (f0, f1, f2, f3, f4, f5)"""
    weights = f"""int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] ten = {{10}}, int64[1] axis = {{2}},
        int64[1] until = {{{size}}}, int64[1] from = {{{48 - size}}}, int64[1] end = {{48}}, int64[1] flat = {{-1}},
        int64[4] cut = {{0, 0, {heads}, 8}}, int64[4] cut6 = {{0, 0, 6, 8}}, int64[4] all = {{0, 6, 10, 8}},
        int64[5] wide = {{1, 1, {times}, 1, 1}}, float half = {{0.5}}, float scale = {{0.3}}"""
    return Probe(name, "agrees", " ".join(body.split()), " ".join(weights.split()), "float[2, 5, 48]", opset=(23, 11))


ROTARY = "RotaryEmbedding by tokens and by heads"
_ATTENTION = (
    _attention(ATTENTION, 6),
    _attention(GROUPED_ATTENTION, 2),
    Probe(
        ROTARY,
        "agrees",
        "f = Slice (x, zero, four, axis) c = Cos (f) n = Sin (f) cc = Concat <axis = 2> (c, c) "
        "nn = Concat <axis = 2> (n, n) c4 = Unsqueeze (cc, one) n4 = Unsqueeze (nn, one) "
        "r = Reshape (x, cut) h = Transpose <perm = [0, 2, 1, 3]> (r) a, b = Split <axis = 3, num_outputs = 2> (h) "
        "m = Neg (b) k = Concat <axis = 3> (m, a) p = Mul (h, c4) o = Mul (k, n4) w = Add (p, o) "
        "t = RotaryEmbedding <num_heads = 6> (x, c, n) tr = Reshape (t, cut) "
        "th = Transpose <perm = [0, 2, 1, 3]> (tr) u = RotaryEmbedding (h, c, n) "
        "d0 = Sub (th, w) d1 = Sub (u, w) y = Concat <axis = 0> (d0, d1)",
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] four = {4}, int64[1] axis = {2}, "
        "int64[4] cut = {0, 0, 6, 8}",
        "float[2, 5, 48]",
        opset=(23, 11),
    ),
)

# ---- memory layouts -----------------------------------------------------------------------------

INT8_NHWC = "uint8 Conv in NHWC"
FLOAT_BLOCKED = "float Conv in NCHWc"
_LAYOUTS = (
    Probe(INT8_NHWC, "layout", _INT8_CONV, _KERNEL, IMAGE, "QLinearConv.channels_last"),
    Probe(FLOAT_BLOCKED, "layout", f"y = {CONV} (x, w)", "float[16, 16, 3, 3] w", IMAGE, "ReorderInput"),
)

PROBES: dict[str, Probe] = {p.name: p for p in (*_FLOAT8, *_FUSES, *_SATURATES, *_EXACT, *_ATTENTION, *_LAYOUTS)}
