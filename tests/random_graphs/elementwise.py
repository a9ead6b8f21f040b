"""Blocks that compute each element, or pool, normalise and reduce."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.random_graphs.builder import MICROSOFT, Builder, need


def unary(b: Builder, x: str) -> str:
    op, settings = b.rng.choice(
        [
            ("Relu", {}),
            ("Sigmoid", {}),
            ("Tanh", {}),
            ("Neg", {}),
            ("Abs", {}),
            ("LeakyRelu", {"alpha": 0.1}),
            ("Elu", {}),
            ("Softplus", {}),
            ("HardSigmoid", {}),
            ("Erf", {}),
            ("Softmax", {"axis": 1}),
            ("Identity", {}),
            ("Dropout", {}),
            ("Gelu", {}),
            ("HardSwish", {}),
        ]
    )
    return b.node(op, x, **settings)


def clip(b: Builder, x: str) -> str:
    if b.opset < 11:
        return b.node("Clip", x, max=2.0)
    return b.node(
        "Clip", x, *b.rng.choice([("", b.constant(2.0)), (b.constant(-1.0),), (b.constant(0.0), b.constant(6.0))])
    )


def with_constant(b: Builder, x: str) -> str:
    shape = b.shape(x)
    kind = b.rng.choice(["scalar", "last", "channel"])
    sizes = {
        "scalar": (),
        "last": shape[-1:],
        "channel": (shape[1], *(1,) * (len(shape) - 2)) if len(shape) > 1 else (),
    }
    values = 1.0 + np.abs(b.random(*sizes[kind]))
    pair = [x, b.constant(values)]
    op = b.rng.choice(["Add", "Mul", "Sub", "Div"])
    if op in ("Add", "Mul"):
        b.rng.shuffle(pair)
    return b.node(op, *pair)


def residual(b: Builder, x: str) -> str:
    others = [t for t in b.live if b.shape(t) == b.shape(x) and b.values[t].dtype == np.float32]
    need(others)
    op = b.rng.choice(["Add", "Add", "Mul", "Max", "Concat"])
    pair = [x, b.rng.choice(others)]
    need(op != "Concat" or len(b.shape(x)) > 1)
    return b.node(op, *pair, **({"axis": 1} if op == "Concat" else {}))


def product_of_activations(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 3)
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return b.node("Div", b.node("MatMul", x, b.node("Transpose", x, perm=order)), b.constant(float(shape[-1])))


def pool(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 3)
    op = b.rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
    if op.startswith("Global"):
        return b.node(op, x)
    return b.node(op, x, kernel_shape=[2] * (len(shape) - 2), strides=[b.rng.choice([1, 2])] * (len(shape) - 2))


def normalized(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2)
    op = b.rng.choice(["BatchNormalization", "LayerNormalization", "InstanceNormalization", "centred"])
    if op == "centred":
        return b.node("Sub", x, b.reduced("ReduceMean", x, len(shape) - 1, keep=True))
    channels = shape[-1] if op == "LayerNormalization" else shape[1]
    scale, bias = b.constant(1 + np.abs(b.random(channels))), b.bias(channels)
    if op == "BatchNormalization":
        return b.node(op, x, scale, bias, b.bias(channels), b.constant(1 + np.abs(b.random(channels))))
    return b.node(op, x, scale, bias)


def contrib(b: Builder, x: str) -> str:
    """An operator of onnxruntime's own domain."""
    need(len(shape := b.shape(x)) >= 2)
    op = b.rng.choice(["Gelu", "QuickGelu", "BiasGelu", "FusedMatMul", "SkipLayerNormalization"])
    more = {
        "BiasGelu": lambda: [b.bias(shape[-1])],
        "FusedMatMul": lambda: [b.weight(shape[-1], 16)],
        "SkipLayerNormalization": lambda: [x, b.constant(1 + np.abs(b.random(shape[-1]))), b.bias(shape[-1])],
    }
    settings: dict[str, object] = {"alpha": 0.5} if op == "FusedMatMul" else {}
    return b.results(op, x, *more.get(op, list)(), domain=MICROSOFT, **settings)[0]


def reduced_to_a_number(b: Builder, x: str) -> str:
    total = b.node("ReduceMean", x, keepdims=0)
    need(b.shape(total) == ())
    return b.node("Mul", x, b.node("Sigmoid", total))


def other_type(b: Builder, x: str) -> str:
    wide = b.node("Cast", x, to=b.rng.choice([TensorProto.FLOAT16, TensorProto.DOUBLE]))
    return b.node("Cast", b.node("Add", wide, wide), to=TensorProto.FLOAT)
