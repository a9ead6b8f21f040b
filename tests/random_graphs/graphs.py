"""Whole graphs of blocks, with their inputs, outputs and samples."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import Array
from tests.random_graphs.bodies import branches, function, loop, scan
from tests.random_graphs.builder import Builder, element
from tests.random_graphs.elementwise import (
    clip,
    contrib,
    normalized,
    other_type,
    pool,
    product_of_activations,
    reduced_to_a_number,
    residual,
    unary,
    with_constant,
)
from tests.random_graphs.layers import attention, conv, conv_transpose, einsum, gemm, matmul, matmul_left, recurrent
from tests.random_graphs.movement import (
    as_optional,
    as_sequence,
    by_index,
    moved,
    nothing_joined,
    resized,
    split_and_joined,
)

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25)


SAMPLES = 5


_LAYOUT: tuple[tuple[int | str, ...], ...] = (
    ("N", 32, 12),
    ("N", 32, 7, 7),
    (1, 24, 6, 6),
    ("N", 4, 5, 5, 5),
    ("N", 64),
    (1, 96),
    ("N", 6, 64),
    (2, 6, 32),
    ("N", "T", 64),
)


LAYERS = (
    conv,
    conv_transpose,
    matmul,
    matmul_left,
    einsum,
    gemm,
    recurrent,
    attention,
    branches,
    loop,
    scan,
    function,
)


OTHERS = (
    unary,
    clip,
    with_constant,
    residual,
    product_of_activations,
    pool,
    normalized,
    split_and_joined,
    moved,
    by_index,
    nothing_joined,
    as_sequence,
    as_optional,
    resized,
    contrib,
    reduced_to_a_number,
    other_type,
)


BLOCKS = (*LAYERS, *OTHERS)


@dataclass(frozen=True)
class RandomGraph:
    """samples: one feed each. blocks: names of what it was made of, in order."""

    proto: onnx.ModelProto
    samples: tuple[Mapping[str, Array], ...]
    blocks: tuple[str, ...]


def random_graph(rng: random.Random, *, blocks: int = 6, opset: int | None = None) -> RandomGraph:
    """A graph of about so many blocks, at least one of which has a weight."""
    b = Builder(rng, opset or rng.choice(OPSETS))
    declared: dict[str, tuple[int | str, ...]] = {}
    start = _input(b, declared)
    b.live.append(start)
    if b.chance(3):
        b.live.append(_input(b, declared))
    ends = [made for further in FURTHER if b.chance(6) and (made := further(b, declared)) is not None]
    used: list[str] = []
    for _ in range(8 * blocks):
        if len(used) >= blocks and set(used) & {f.__name__ for f in LAYERS}:
            break
        block = rng.choice(LAYERS if b.chance(2) else OTHERS)
        tensor = rng.choice(b.live[-2:])
        if (made := b.attempt(block, tensor)) is not None:
            b.live.append(made)
            used.append(block.__name__)
    if b.chance(5) and (made := b.attempt(_labels, b.live[-1])) is not None:
        b.live.append(made)
    if b.chance(8) and (made := b.attempt(_total, b.live[-1])) is not None:
        ends.append(made)
    return RandomGraph(_finished(b, declared, ends), _samples(b, declared), tuple(used))


def _labels(b: Builder, x: str) -> str:
    return b.node("ArgMax", x, axis=-1 if b.opset > 10 else len(b.shape(x)) - 1)


def _total(b: Builder, x: str) -> str:
    """A number without axes beside the other outputs."""
    return b.node("ReduceMean", x, keepdims=0)


def _input(b: Builder, declared: dict[str, tuple[int | str, ...]]) -> str:
    """A float input; or tokens, looked up in a table; or pictures of bytes, channels last."""
    name = b.rng.choice(["x", "input.1", "x:0", "in/put"]) + str(len(declared))
    b.inputs.append(name)
    if b.chance(6):
        declared[name] = ("N", 7, 7, 3)
        b.values[name] = np.abs(b.random(1, 7, 7, 3, spread=80)).astype(np.uint8)
        scaled = b.node("Div", b.node("Cast", name, to=TensorProto.FLOAT), b.constant(255.0))
        return b.node("Transpose", scaled, perm=[0, 3, 1, 2])
    if b.chance(4):
        declared[name] = ("N", 6)
        b.values[name] = np.array([[1, 2, 3, 4, 5, 0]], np.int64)
        return b.node("Gather", b.weight(200, b.rng.choice([16, 64])), name)
    shape = declared[name] = b.rng.choice(_LAYOUT)
    b.values[name] = b.random(*_sizes(shape))
    return name


def _number(b: Builder, declared: dict[str, tuple[int | str, ...]]) -> str:
    """An input without axes, by which a tensor is multiplied."""
    declared["factor"] = ()
    b.values["factor"] = np.asarray(1.5, np.float32)
    b.live.append(b.node("Mul", b.live[-1], "factor"))
    return b.live[-1]


def _words(b: Builder, declared: dict[str, tuple[int | str, ...]]) -> str:
    """Strings that pass through."""
    declared["words"] = ("N",)
    b.values["words"] = np.array(["a"], object)
    return b.node("Identity", "words")


def _cache(b: Builder, declared: dict[str, tuple[int | str, ...]]) -> str:
    """A cache before the first step: an input without elements, which something is joined to."""
    declared["past"] = ("N", "P", 8)
    b.values["past"] = np.zeros((1, 0, 8), np.float32)
    return b.node("Concat", "past", b.constant(b.random(1, 2, 8)), axis=1)


FURTHER = (_number, _words, _cache)
"""Inputs beside the ones that blocks read; each gives a tensor that may be an output."""


def _sizes(shape: Sequence[int | str]) -> list[int]:
    return [{"N": 1, "T": 6}.get(d, 0) if isinstance(d, str) else d for d in shape]


def _samples(b: Builder, declared: Mapping[str, tuple[int | str, ...]]) -> tuple[Mapping[str, Array], ...]:
    first = {name: b.values[name] for name in declared}
    generator = np.random.default_rng(b.rng.getrandbits(32))
    more = [{name: _alike(generator, v) for name, v in first.items()} for _ in range(SAMPLES - 1)]
    return (first, *more)


def _alike(generator: np.random.Generator, values: Array) -> Array:
    """Other values of the same type and shape."""
    if values.dtype == np.int64:
        return generator.integers(0, 200, values.shape)
    if values.dtype == np.uint8:
        return generator.integers(0, 256, values.shape).astype(np.uint8)
    if values.dtype == object:
        return generator.choice(np.array(["a", "b", ""], object), values.shape)
    return np.asarray(generator.standard_normal(values.shape), np.float32)


def _finished(b: Builder, declared: Mapping[str, tuple[int | str, ...]], ends: Sequence[str]) -> onnx.ModelProto:
    """The whole model: its last tensor is an output, and now and then others are; `ends` are."""
    computed = {o for node in b.nodes for o in node.output}
    outputs = [t for t in b.live if t in computed]
    kept = sorted({outputs[-1], *ends, *b.rng.sample(outputs, min(len(outputs), b.rng.choice([0, 0, 1, 2])))})
    inputs = [helper.make_tensor_value_info(n, element(b.values[n]), shape) for n, shape in declared.items()]
    read = {i for node in b.nodes for i in node.input} | {r for node in b.nodes for r in _inner_reads(node)}
    stored = [numpy_helper.from_array(np.asarray(v), n) for n, v in b.constants.items() if n in read]
    if (b.opset < 9 and not b.functions) or b.chance(6):
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored]
    ends = [helper.make_tensor_value_info(o, element(b.values[o]), [None] * b.values[o].ndim) for o in kept]
    return b.model(helper.make_graph(b.nodes, "random", inputs, ends, stored, doc_string="a random graph"))


def _inner_reads(node: onnx.NodeProto) -> set[str]:
    return {i for a in node.attribute if a.HasField("g") for n in a.g.node for i in n.input}
