"""Blocks with a weight: convolutions, products, recurrences, attention."""

from __future__ import annotations

import numpy as np

from tests.random_graphs.builder import Builder, need


def divisor(b: Builder, *numbers: int) -> int:
    return b.rng.choice([d for d in range(1, 9) if all(n % d == 0 for n in numbers)])


def conv(b: Builder, x: str) -> str:
    need(3 <= len(shape := b.shape(x)) <= 5)
    groups = b.rng.choice([1, 1, shape[1], divisor(b, shape[1])])
    rank, made = len(shape) - 2, groups * b.rng.choice([1, 2, max(1, 16 // groups)])
    kernel = [b.rng.choice([1, 2, 3]) for _ in range(rank)]
    more: dict[str, object] = {"group": groups, "kernel_shape": kernel}
    if b.chance(2):
        more["auto_pad"] = b.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    else:
        more["pads"] = [b.rng.choice([0, 1]) for _ in range(2 * rank)]
    if b.chance(2):
        more["strides" if b.chance(2) else "dilations"] = [b.rng.choice([1, 2]) for _ in range(rank)]
    bias = [b.bias(made)] if b.chance(2) else []
    return b.node("Conv", x, b.weight(made, shape[1] // groups, *kernel), *bias, **more)


def conv_transpose(b: Builder, x: str) -> str:
    need(3 <= len(shape := b.shape(x)) <= 4)
    groups, rank = divisor(b, shape[1]), len(shape) - 2
    each, kernel = b.rng.choice([1, 4]), [b.rng.choice([1, 2, 3])] * rank
    more: dict[str, object] = {"group": groups, "kernel_shape": kernel, "strides": [2] * rank}
    if b.chance(2):
        more["output_padding"] = [1] * rank
    bias = [b.bias(groups * each)] if b.chance(2) else []
    return b.node("ConvTranspose", x, b.weight(shape[1], each, *kernel), *bias, **more)


def matmul(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2)
    inputs, outputs = shape[-1], b.rng.choice([8, 24, 48, 96])
    form = b.rng.choice(["plain", "plain", "batched", "one", "vector"])
    if form == "vector":
        need(len(shape) > 2)
        return b.node("MatMul", x, b.weight(inputs))
    batch = {"plain": [], "one": [1] * (len(shape) - 2), "batched": [1, *shape[1:-2]][: len(shape) - 2]}[form]
    product = b.node("MatMul", x, b.weight(*batch, inputs, outputs))
    if b.chance(2):
        return product
    pair = [product, b.bias(outputs)]
    b.rng.shuffle(pair)
    return b.node("Add", *pair)


def matmul_left(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 3)
    return b.node("MatMul", b.weight(b.rng.choice([4, 10]), shape[-2]), x)


def einsum(b: Builder, x: str) -> str:
    """As exporters of attention write linear layers: the last axis, or the last two, to one or two new ones."""
    need(b.opset >= 12 and len(shape := b.shape(x)) >= 2)
    letters, taken = "abcdef"[: len(shape)], b.rng.choice([1, 1, 2]) if len(shape) > 2 else 1
    summed, free = letters[-taken:], b.rng.choice(["x", "xy"])
    sizes = [*shape[-taken:], *b.rng.choice([(8, 3), (4, 12)])[: len(free)]]
    order = list(range(len(sizes)))
    if b.chance(2):
        b.rng.shuffle(order)
    held = "".join((summed + free)[i] for i in order)
    weight = b.weight(*(sizes[i] for i in order))
    equation = f"{letters},{held}->{letters[:-taken]}{free}"
    if b.chance(3):
        return b.node("Einsum", weight, x, equation=f"{held},{letters}->{letters[:-taken]}{free}")
    return b.node("Einsum", x, weight, equation=equation)


def gemm(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) == 2)
    made = b.rng.choice([10, 64])
    flip_a, flip_b = b.chance(3), b.chance(2)
    source = b.node("Transpose", x, perm=[1, 0]) if flip_a else x
    weight = b.weight(*((made, shape[1]) if flip_b else (shape[1], made)))
    # before opset 11 a Gemm has a bias
    bias: list[tuple[int, ...]] = [(made,), (1, made), (1,), (), *([] if b.opset < 11 else [(-1,)])]
    chosen = b.rng.choice(bias)
    more: dict[str, object] = {"transA": int(flip_a), "transB": int(flip_b)}
    for factor in ("alpha", "beta"):
        if b.chance(2):
            more[factor] = b.rng.choice([0.5, 2.0, 0.0 if factor == "beta" else 1.0])
    return b.node("Gemm", source, weight, *([] if chosen == (-1,) else [b.bias(*chosen)]), **more)


def recurrent(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) == 3)
    op, gates = b.rng.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    direction = b.rng.choice(["forward", "reverse", "bidirectional"])
    ways, hidden = 1 + (direction == "bidirectional"), b.rng.choice([4, 32])
    steps = b.node("Transpose", x, perm=[1, 0, 2])
    weights = [b.weight(ways, gates * hidden, n) for n in (shape[2], hidden)]
    more: list[str] = []
    if b.chance(2):
        more = [b.bias(ways, 2 * gates * hidden)]
    elif op == "LSTM" and b.chance(3):
        more = ["", "", "", "", b.bias(ways, 3 * hidden)]
    settings: dict[str, object] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        settings["linear_before_reset"] = b.rng.choice([0, 1])
    y, last = b.results(op, steps, *weights, *more, outputs=2, **settings)
    if b.chance(3):
        return b.node("Transpose", last, perm=[1, 0, 2])
    return b.reshaped(b.node("Transpose", y, perm=[2, 0, 1, 3]), 0, 0, ways * hidden)


def attention(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) == 3)
    q, k, v = (b.node("MatMul", x, b.weight(shape[2], 32)) for _ in range(3))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 1]))
    scaled = b.node("Div", scores, b.constant(4.0))
    if b.chance(2):
        mask = b.constant(np.arange(shape[1]) % 2 == 0, np.bool_)
        lowest = b.constant(b.rng.choice([-1e4, float(np.finfo(np.float32).min), -np.inf]))
        scaled = b.masked(mask, scaled, lowest)
    return b.node("MatMul", b.node("Softmax", scaled, axis=2), v)
