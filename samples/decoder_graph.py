"""The graph of a small causal decoder with a cache, as exporters of Hugging Face models write it.

RMSNorm, rotary positions, grouped queries and SwiGLU, each spelled out in ONNX operators; the embedding is tied: the
head reads the same tensor, transposed. Inputs are `input_ids`, `attention_mask`, `position_ids` and
`past_key_values.N.key` and `.value`, outputs `logits` and `present.N.key` and `.value`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FAR = float(np.finfo(np.float32).min)
"""Addend of positions that are masked."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder. queries and pairs are numbers of heads: of queries, and of keys and values."""

    vocabulary: int
    width: int
    layers: int
    queries: int
    pairs: int
    head: int
    hidden: int
    base: float = 10000.0
    epsilon: float = 1e-6

    @property
    def frequencies(self) -> NDArray[np.float32]:
        """Of rotary positions, float32 [head / 2] (Su et al., 2021, section 3.2.2)."""
        return (self.base ** (-np.arange(0, self.head, 2) / self.head)).astype(np.float32)


class Writer:
    """Nodes and constants of a graph, in the order in which they are written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """A node of one output, whose name is returned."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=f"/{output}", **attributes))
        return output

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def whole(self, *values: int) -> str:
        """int64 [values]."""
        return self.constant(f"whole_{'_'.join(map(str, values))}", values, np.int64)

    def size(self, tensor: str, axis: int) -> str:
        """int64 [1]: of an axis."""
        return self.node("Gather", self.node("Shape", tensor), self.whole(axis), axis=0)


def decoder(shape: Shape, weights: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """The model. weights: `embedding` [vocabulary, width], `norm` [width], and `N.` with `attention_norm`, `mlp_norm`
    [width], `q`, `k`, `v`, `o`, `gate`, `up`, `down` [inputs, outputs] for each layer N.

    Opset 17. All axes of batch and time are dynamic.
    """
    w = Writer()
    w.constant("embedding", weights["embedding"])
    stream = w.node("Gather", "embedding", "input_ids", axis=0)
    cosine, sine = _rotations(w, shape)
    mask = _mask(w)
    for layer in range(shape.layers):
        held = {name: w.constant(f"{layer}.{name}", weights[f"{layer}.{name}"]) for name in _LAYER}
        normed = _rms_norm(w, stream, held["attention_norm"], shape)
        stream = w.node("Add", stream, _attention(w, normed, held, layer, shape, cosine, sine, mask))
        normed = _rms_norm(w, stream, held["mlp_norm"], shape)
        gate = w.node("MatMul", normed, held["gate"])
        hidden = w.node("Mul", w.node("Mul", gate, w.node("Sigmoid", gate)), w.node("MatMul", normed, held["up"]))
        stream = w.node("Add", stream, w.node("MatMul", hidden, held["down"]))
    normed = _rms_norm(w, stream, w.constant("norm", weights["norm"]), shape)
    w.node("MatMul", normed, w.node("Transpose", "embedding", perm=[1, 0]), output="logits")
    graph = helper.make_graph(w.nodes, "decoder", *_ends(shape), list(w.constants.values()))
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)], producer_name="onnxmpq samples"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


_LAYER = ("attention_norm", "mlp_norm", "q", "k", "v", "o", "gate", "up", "down")
_KEYS = ("key", "value")


def _ends(shape: Shape) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """Inputs and outputs."""
    past, total = "past_sequence_length", "past_sequence_length + sequence_length"
    step, ids, numbers = ["batch_size", "sequence_length"], TensorProto.INT64, TensorProto.FLOAT
    caches = [f"{layer}.{key}" for layer in range(shape.layers) for key in _KEYS]

    def cache(name: str, length: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, numbers, ["batch_size", shape.pairs, length, shape.head])

    inputs = [
        helper.make_tensor_value_info("input_ids", ids, step),
        helper.make_tensor_value_info("attention_mask", ids, ["batch_size", total]),
        helper.make_tensor_value_info("position_ids", ids, step),
        *(cache(f"past_key_values.{name}", past) for name in caches),
    ]
    logits = helper.make_tensor_value_info("logits", numbers, [*step, shape.vocabulary])
    return inputs, [logits, *(cache(f"present.{name}", total) for name in caches)]


def _rms_norm(w: Writer, values: str, scale: str, shape: Shape) -> str:
    """Zhang and Sennrich, 2019."""
    power = w.node("ReduceMean", w.node("Pow", values, w.constant("two", 2.0)), axes=[-1], keepdims=1)
    root = w.node("Sqrt", w.node("Add", power, w.constant("epsilon", shape.epsilon)))
    return w.node("Mul", w.node("Div", values, root), scale)


def _rotations(w: Writer, shape: Shape) -> tuple[str, str]:
    """Cosines and sines of all positions, float32 [batch, 1, time, head]."""
    place = w.node("Unsqueeze", w.node("Cast", "position_ids", to=TensorProto.FLOAT), w.whole(1, 3))
    angle = w.node("Mul", place, w.constant("frequencies", shape.frequencies.reshape(1, 1, 1, -1)))
    twice = w.node("Concat", angle, angle, axis=-1)
    return w.node("Cos", twice), w.node("Sin", twice)


def _rotated(w: Writer, values: str, cosine: str, sine: str, shape: Shape) -> str:
    half = shape.head // 2
    first = w.node("Slice", values, w.whole(0), w.whole(half), w.whole(-1))
    second = w.node("Slice", values, w.whole(half), w.whole(shape.head), w.whole(-1))
    turned = w.node("Concat", w.node("Neg", second), first, axis=-1)
    return w.node("Add", w.node("Mul", values, cosine), w.node("Mul", turned, sine))


def _mask(w: Writer) -> str:
    """Addend of attention scores, float32 [batch, 1, time, past + time]."""
    total, time = w.size("attention_mask", 1), w.size("input_ids", 1)
    ends = [w.node("Squeeze", size, w.whole(0)) for size in (w.node("Sub", total, time), total)]
    rows = w.node("Unsqueeze", w.node("Range", *ends, w.constant("one", 1, np.int64)), w.whole(1))
    columns = w.node("Range", w.constant("zero", 0, np.int64), ends[1], "one")
    causal = w.node("Unsqueeze", w.node("LessOrEqual", columns, rows), w.whole(0, 1))
    there = w.node("Unsqueeze", w.node("Cast", "attention_mask", to=TensorProto.BOOL), w.whole(1, 2))
    return w.node("Where", w.node("And", causal, there), w.constant("nought", 0.0), w.constant("far", FAR))


def _heads(w: Writer, values: str, heads: int, shape: Shape) -> str:
    """[batch, time, heads * head] -> [batch, heads, time, head]."""
    return w.node("Transpose", w.node("Reshape", values, w.whole(0, 0, heads, shape.head)), perm=[0, 2, 1, 3])


def _repeated(w: Writer, values: str, shape: Shape) -> str:
    """A head of keys or values for each head of queries."""
    times = shape.queries // shape.pairs
    if times == 1:
        return values
    sizes = w.node(
        "Concat",
        w.size(values, 0),
        w.whole(shape.pairs),
        w.whole(times),
        w.size(values, 2),
        w.whole(shape.head),
        axis=0,
    )
    wide = w.node("Expand", w.node("Unsqueeze", values, w.whole(2)), sizes)
    return w.node("Reshape", wide, w.whole(0, shape.queries, -1, shape.head))


def _attention(
    w: Writer, values: str, held: Mapping[str, str], layer: int, shape: Shape, cosine: str, sine: str, mask: str
) -> str:
    q = _heads(w, w.node("MatMul", values, held["q"]), shape.queries, shape)
    k, v = (_heads(w, w.node("MatMul", values, held[name]), shape.pairs, shape) for name in "kv")
    q, k = (_rotated(w, x, cosine, sine, shape) for x in (q, k))
    cached = [
        w.node("Concat", f"past_key_values.{layer}.{key}", new, output=f"present.{layer}.{key}", axis=2)
        for key, new in zip(_KEYS, (k, v), strict=True)
    ]
    keys, values = (_repeated(w, tensor, shape) for tensor in cached)
    scores = w.node("MatMul", q, w.node("Transpose", keys, perm=[0, 1, 3, 2]))
    scaled = w.node("Add", w.node("Mul", scores, w.constant("scale", shape.head**-0.5)), mask)
    mixed = w.node("MatMul", w.node("Softmax", scaled, axis=-1), values)
    merged = w.node("Reshape", w.node("Transpose", mixed, perm=[0, 2, 1, 3]), w.whole(0, 0, -1))
    return w.node("MatMul", merged, held["o"])
