"""Where Q/DQ pairs and casts stand: what the compiler takes, and the bytes that it stores, spelling beside spelling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper

TOKENS, WIDTH, HEADS = 64, 256, 4


@dataclass(frozen=True)
class Placement:
    """question: what is asked. spelling: one way to write it."""

    question: str
    spelling: str
    proto: onnx.ModelProto


def placements() -> Iterator[Placement]:
    yield from _residual_adds()
    yield from _concat()
    for operator, text in (
        ("LayerNormalization", "n = LayerNormalization (H, g, b)"),
        ("GELU", "n = Gelu (H)"),
        ("Softmax", "n = Softmax (H)"),
    ):
        yield from _around(operator, text)
    yield from _attention()
    yield from _last_quantizer()
    yield from _scales()
    yield from _merging()


def _pair(source: str, name: str) -> str:
    """A Q/DQ pair in fp8."""
    return f"{name}q = QuantizeLinear ({source}, s, zf) {name} = DequantizeLinear ({name}q, s, zf) "


def _layer(source: str, weight: str, name: str) -> str:
    """A product in fp8 of a dequantized tensor."""
    return f"{name}w = DequantizeLinear <axis = 1> ({weight}, {weight}s) {name} = MatMul ({source}, {name}w) "


def _residual_adds() -> Iterator[Placement]:
    question, x = "residual Add behind an fp8 product", _pair("x", "d")
    first = x + _layer("d", "w1", "a")
    spelled = {
        "the other branch in float32": first + "y = Add (a, x)",
        "the other branch through the pair that it has (ours)": first + "y = Add (a, d)",
        "both branches through pairs": first + _pair("a", "p") + "y = Add (p, d)",
        "in float16, other branch through the pair (ours)": first
        + "a16 = Cast <to = 10> (a) d16 = Cast <to = 10> (d) t = Add (a16, d16) y = Cast <to = 1> (t)",
    }
    for name, body in spelled.items():
        yield Placement(question, name, _proto(body))


def _concat() -> Iterator[Placement]:
    two = _pair("x", "d") + _layer("d", "w1", "a") + _layer("d", "w2", "b2")
    third = _layer("c", "w5", "y")
    spelled = {
        "no pair at the Concat, one behind it (ours)": two + "j = Concat <axis = 2> (a, b2) " + _pair("j", "c") + third,
        "a pair of one scale on each input": two
        + _pair("a", "p")
        + _pair("b2", "r")
        + "c = Concat <axis = 2> (p, r) "
        + third,
    }
    for name, body in spelled.items():
        yield Placement("Concat between fp8 products", name, _proto(body))


def _around(operator: str, text: str) -> Iterator[Placement]:
    first, question = _pair("x", "d") + _layer("d", "w1", "a"), f"{operator} between fp8 products"
    last = _pair("n", "m") + _layer("m", "w2", "y")
    yield Placement(question, "in float32", _proto(first + text.replace("H", "a") + " " + last))
    half = text.replace("H", "a16").replace("n =", "n16 =").replace("g, b", "g16, b16")
    body = first + "a16 = Cast <to = 10> (a) " + half + " n = Cast <to = 1> (n16) " + last
    yield Placement(question, "in float16 between casts (ours)", _proto(body))
    pairs = first + _pair("a", "p") + text.replace("H", "p") + " " + last
    yield Placement(question, "a pair in front of it as well", _proto(pairs))


def _attention() -> Iterator[Placement]:
    head = WIDTH // HEADS
    split = "".join(
        f"{n}h = Reshape ({n}, heads) {n}t = Transpose <perm = [0, 2, {'3, 1' if n == 'k' else '1, 3'}]> ({n}h) "
        for n in "qkv"
    )
    made = _pair("x", "d") + _layer("d", "w1", "q") + _layer("d", "w2", "k") + _layer("d", "w3", "v") + split
    join = "o = Transpose <perm = [0, 2, 1, 3]> (r) u = Reshape (o, flat) " + _pair("u", "z") + _layer("z", "w4", "y")
    plain = "l = MatMul (qt, kt) m = Mul (l, f) p = Softmax (m) r = MatMul (p, vt) "
    cast = "".join(f"{n}6 = Cast <to = 10> ({n}t) " for n in "qkv")
    half = cast + "l = MatMul (q6, k6) m = Mul (l, f16) p = Softmax (m) r6 = MatMul (p, v6) r = Cast <to = 1> (r6) "
    fp8 = _pair("qt", "qd") + _pair("kt", "kd") + _pair("vt", "vd")
    whole = fp8 + "l = MatMul (qd, kd) m = Mul (l, f) p = Softmax (m) " + _pair("p", "pd") + "r = MatMul (pd, vd) "
    mixed = fp8 + "l = MatMul (qd, kd) m = Mul (l, f) p = Softmax (m) r = MatMul (p, vd) "
    question = f"attention of {HEADS} heads of {head} behind and before fp8 products"
    for name, body in (
        ("float32 inside", plain),
        ("float16 inside (ours)", half),
        ("both products in fp8, Softmax float32 (ours, where the plan has it)", whole),
        ("first product in fp8 alone", mixed),
    ):
        yield Placement(question, name, _proto(made + body + join))


def _last_quantizer() -> Iterator[Placement]:
    first = _pair("x", "d") + _layer("d", "w1", "a")
    yield Placement("the graph's output", "behind the product in float32 (ours)", _proto(first + "y = Relu (a)"))
    yield Placement("the graph's output", "a pair in front of it", _proto(first + "r = Relu (a) " + _pair("r", "y")))


def _scales() -> Iterator[Placement]:
    for scales, element in (("float32", 1), ("float16", 10)):
        cast = "" if element == 1 else f"xc = Cast <to = {element}> (x) "
        s, source = ("s", "x") if element == 1 else ("s16", "xc")
        w = "w1s" if element == 1 else "w1s16"
        body = (
            f"{cast}dq = QuantizeLinear ({source}, {s}, zf) d = DequantizeLinear (dq, {s}, zf) "
            f"aw = DequantizeLinear <axis = 1> (w1, {w}) a = MatMul (d, aw) "
            + ("y = Relu (a)" if element == 1 else "c = Cast <to = 1> (a) y = Relu (c)")
        )
        yield Placement("scales of an fp8 product", f"{scales}{' (ours)' if element == 1 else ''}", _proto(body))


def _merging() -> Iterator[Placement]:
    """Do three products of one tensor become one? Their results are read by three operators that are alike."""
    question = "products of one tensor, fp8"
    ends = "".join(f"{n}r = Relu ({n}) " for n in "qkv") + "y = Concat <axis = 2> (qr, kr, vr)"
    first = _pair("x", "d")
    three = "".join(_layer("d", f"w{i + 1}", n) for i, n in enumerate("qkv"))
    one = _layer("d", "w6", "m") + "q, k, v = Split <axis = 2, num_outputs = 3> (m) "
    yield Placement(question, "one", _proto(first + _layer("d", "w1", "q") + "y = Relu (q)"))
    yield Placement(question, "three", _proto(first + three + ends))
    yield Placement(question, "merged in the graph, Split behind it", _proto(first + one + ends))
    shifted = "".join(f"{n}x = Add (x, {n}1) " + _pair(f"{n}x", f"{n}d") for n in "qkv")
    apart = "".join(_layer(f"{n}d", f"w{i + 1}", n) for i, n in enumerate("qkv"))
    yield Placement("products of three tensors, fp8", "three", _proto(shifted + apart + ends))


def _proto(body: str) -> onnx.ModelProto:
    """A graph from x [1, TOKENS, WIDTH] to y, with those of the constants that it reads."""
    x = f"float[1, {TOKENS}, {WIDTH}] x"
    head = '<ir_version: 10, opset_import: ["" : 21]>'
    proto = onnx.parser.parse_model(f"{head} g ({x}) => (float[A, B, C] y) {{ {body} }}")
    read = {t for n in proto.graph.node for t in n.input}
    proto.graph.initializer.extend(t for t in _constants() if t.name in read)
    return proto


def _constants() -> Iterator[onnx.TensorProto]:
    generator = np.random.default_rng(0)
    square, tall, wide = (WIDTH, WIDTH), (2 * WIDTH, WIDTH), (WIDTH, 3 * WIDTH)
    for name, shape in (("w1", square), ("w2", square), ("w3", square), ("w4", square), ("w5", tall), ("w6", wide)):
        codes = generator.integers(0, 120, shape).astype(np.uint8).tobytes()
        yield helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, shape, codes, raw=True)
        yield onnx.numpy_helper.from_array(np.full(shape[1], 0.01, np.float32), f"{name}s")
        yield onnx.numpy_helper.from_array(np.full(shape[1], 0.01, np.float16), f"{name}s16")
    yield helper.make_tensor("zf", TensorProto.FLOAT8E4M3FN, (), b"\0", raw=True)
    for name, values in {
        "s": np.float32(0.02), "s16": np.float16(0.02), "f": np.float32(0.125), "f16": np.float16(0.125),
        "g": np.ones(WIDTH, np.float32), "b": np.zeros(WIDTH, np.float32), "g16": np.ones(WIDTH, np.float16),
        "b16": np.zeros(WIDTH, np.float16), "heads": np.array([1, TOKENS, HEADS, WIDTH // HEADS]),
        "flat": np.array([1, TOKENS, WIDTH]), **{f"{n}1": np.float32(i) for i, n in enumerate("qkv")},
    }.items():  # fmt: skip
        yield onnx.numpy_helper.from_array(np.asarray(values), name)
