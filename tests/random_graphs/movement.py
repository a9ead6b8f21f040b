"""Blocks that move elements and compute nothing."""

from __future__ import annotations

from onnx import helper

from tests.random_graphs.builder import Builder, need


def split_and_joined(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2)
    axis = b.rng.randrange(1, len(shape))
    need(shape[axis] > 1)
    first = b.rng.randrange(1, shape[axis])
    parts = b.split(x, axis, [first, shape[axis] - first])
    parts[0] = b.node("Relu", parts[0])
    b.rng.shuffle(parts)
    return b.node("Concat", *parts, axis=axis)


def moved(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 3)
    kind = b.rng.choice(["transpose", "flat", "flatten", "fold"])
    if kind == "transpose":
        order = list(range(1, len(shape)))
        b.rng.shuffle(order)
        return b.node("Transpose", x, perm=[0, *order])
    if kind == "flatten":
        return b.node("Flatten", x)
    if kind == "flat":
        return b.reshaped(x, 0, -1)
    return b.reshaped(x, 0, shape[1], -1)


def by_index(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2)
    return b.node("Gather", x, b.ints(*(b.rng.randrange(shape[1]) for _ in range(4))), axis=1)


def nothing_joined(b: Builder, x: str) -> str:
    """A Concat with a tensor that has no elements."""
    need(len(b.shape(x)) >= 2)
    return b.node("Concat", x, b.node("Relu", b.sliced(x, 1, 0, 0)), axis=1)


def as_sequence(b: Builder, x: str) -> str:
    need(len(shape := b.shape(x)) >= 2 and all(shape) and b.opset >= 11)
    parts, joined = b.name(), b.name()
    nodes = [
        helper.make_node("SplitToSequence", [x], [parts], axis=1),
        helper.make_node("ConcatFromSequence", [parts], [joined], axis=1),
    ]
    b.nodes += nodes
    b.values[joined] = b.values[x]
    return joined


def as_optional(b: Builder, x: str) -> str:
    need(b.opset >= 18)
    kept, there = b.name(), b.name()
    b.nodes += [
        helper.make_node("Optional", [x], [kept]),
        helper.make_node("OptionalGetElement", [kept], [there]),
    ]
    b.values[there] = b.values[x]
    return there


def resized(b: Builder, x: str) -> str:
    """Inputs in the middle of the list that are left out."""
    need(len(shape := b.shape(x)) == 4 and b.opset >= 13)
    mode = b.rng.choice(["nearest", "linear"])
    if b.chance(2):
        return b.node("Resize", x, "", b.constant([1, 1, 2, 2]), mode=mode)
    return b.node("Resize", x, "", "", b.ints(shape[0], shape[1], 5, 9), mode=mode)
