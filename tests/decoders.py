"""Tiny decoders with a cache: spelled out as optimum exports them, and in the operators of onnxruntime-genai."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH, HEADS, PAIRS, HEAD, LONGEST = 48, 64, 4, 2, 16, 64
CROSS = tuple(f"past_key_values.0.encoder.{key}" for key in ("key", "value"))
CACHES = tuple(f"{layer}.{key}" for layer in range(2) for key in ("key", "value"))


@dataclass
class Draft:
    """A graph under construction, with random weights."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def node(self, operator: str, *inputs: str, outputs: tuple[str, ...] = (), domain: str = "", **more: object) -> str:
        made = outputs or (f"{operator}_{len(self.nodes)}",)
        self.nodes.append(helper.make_node(operator, inputs, made, f"n{len(self.nodes)}", domain=domain, **more))
        return made[0]

    def constant(self, value: object, dtype: type = np.float32, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        return self.constant(self.generator.standard_normal(shape) / np.sqrt(shape[0]), name=name)

    def model(
        self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], opset: int = 21
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, ir_version=10, opset_imports=opsets)


def ends(
    *, positions: bool, past: str = "past_key_values.", present: str = "present."
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """Inputs and outputs of a decoder of two layers."""
    whole, number, batch = TensorProto.INT64, TensorProto.FLOAT, "batch_size"
    cache = [batch, PAIRS, "past_sequence_length", HEAD]
    more = [helper.make_tensor_value_info("position_ids", whole, [batch, "sequence_length"])] * positions
    inputs = [
        helper.make_tensor_value_info("input_ids", whole, [batch, "sequence_length"]),
        helper.make_tensor_value_info("attention_mask", whole, [batch, "total_sequence_length"]),
        *more,
        *(helper.make_tensor_value_info(past + name, number, cache) for name in CACHES),
    ]
    grown = [batch, PAIRS, "total_sequence_length", HEAD]
    logits = helper.make_tensor_value_info("logits", number, [batch, "sequence_length", VOCABULARY])
    return inputs, [logits, *(helper.make_tensor_value_info(present + name, number, grown) for name in CACHES)]


def plain(
    past: str = "past_key_values.",
    present: str = "present.",
    *,
    packed: bool = False,
    rotary: str | None = None,
    encoder: bool = False,
) -> onnx.ModelProto:
    """Attention in ONNX operators, grouped queries, learned positions that `position_ids` look up.

    packed: one MatMul and a Split for queries, keys and values. rotary: domain of RotaryEmbedding nodes ("" is ONNX's,
    of opset 23); None for none. encoder: keys and values of an encoder's output are inputs too (`CROSS`).
    """
    d = Draft()
    stream = d.node("Gather", d.weight(VOCABULARY, WIDTH, name="embedding"), "input_ids")
    stream = d.node("Add", stream, d.node("Gather", d.weight(LONGEST, WIDTH), "position_ids"))
    addend = _causal(d)
    for layer in range(2):
        normed = d.node("LayerNormalization", stream, d.constant(np.ones(WIDTH)), d.constant(np.zeros(WIDTH)))
        parts = _parts(d, normed, packed)
        q = _rotated(d, _heads(d, parts[0], HEADS), rotary)
        cached = []
        for key, part in zip(("key", "value"), parts[1:], strict=True):
            new = _heads(d, part, PAIRS)
            new = _rotated(d, new, rotary) if key == "key" else new
            name = f"{layer}.{key}"
            cached.append(d.node("Concat", past + name, new, outputs=(present + name,), axis=2))
        keys, values = (_repeated(d, tensor) for tensor in cached)
        stream = d.node("Add", stream, _attended(d, q, keys, values, addend))
    if encoder:
        q = _heads(d, d.node("MatMul", stream, d.weight(WIDTH, WIDTH)), HEADS)
        stream = d.node("Add", stream, _attended(d, q, *CROSS, d.constant(0.0)))
    d.node("MatMul", stream, d.node("Transpose", "embedding", perm=[1, 0]), outputs=("logits",))
    inputs, outputs = ends(positions=True, past=past, present=present)
    seen = ["batch_size", HEADS, "encoder_sequence_length", HEAD]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, seen) for name in CROSS] * encoder
    return d.model(inputs, outputs, 23 if rotary == "" else 21)


def contrib(*, nbits: bool = False) -> onnx.ModelProto:
    """As onnxruntime-genai's model builder writes it: GroupQueryAttention with packed Q, K and V and rotary positions,
    SimplifiedLayerNormalization (in the domain of ONNX, which does not have it), and skips fused into norms.

    nbits: the projections of the first layer are MatMulNBits already.
    """
    d = Draft()
    ms = {"domain": "com.microsoft"}
    last = d.node("Sub", d.node("ReduceSum", "attention_mask", d.constant([1], np.int64)), d.constant([1], np.int64))
    lengths = d.node("Cast", last, to=TensorProto.INT32)
    total = d.node("Gather", d.node("Shape", "attention_mask"), d.constant(1, np.int64), axis=0)
    total = d.node("Cast", total, to=TensorProto.INT32)
    angles = np.outer(np.arange(LONGEST), 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD))
    cosine, sine = d.constant(np.cos(angles)), d.constant(np.sin(angles))
    stream = d.node("Gather", d.weight(VOCABULARY, WIDTH), "input_ids")
    ones = d.constant(np.ones(WIDTH))
    normed = d.node("SimplifiedLayerNormalization", stream, ones, axis=-1, epsilon=1e-6, stash_type=1)
    for layer in range(2):
        packed = _projected(d, normed, WIDTH, (HEADS + 2 * PAIRS) * HEAD, nbits=nbits and layer == 0)
        names = [f"{layer}.{key}" for key in ("key", "value")]
        attended = d.node(
            "GroupQueryAttention",
            *(packed, "", "", *(f"past_key_values.{n}" for n in names), lengths, total, cosine, sine),
            outputs=(f"attention_{layer}", *(f"present.{n}" for n in names)),
            **(ms | {"num_heads": HEADS, "kv_num_heads": PAIRS, "do_rotary": 1, "scale": HEAD**-0.5}),
        )
        for block in (_projected(d, attended, WIDTH, WIDTH, nbits=nbits and layer == 0), None):
            if block is None:
                gate = d.node("MatMul", normed, d.weight(WIDTH, 2 * WIDTH))
                silu = d.node("Mul", gate, d.node("Sigmoid", gate))
                hidden = d.node("Mul", silu, d.node("MatMul", normed, d.weight(WIDTH, 2 * WIDTH)))
                block = d.node("MatMul", hidden, d.weight(2 * WIDTH, WIDTH))
            fused = (f"normed_{len(d.nodes)}", "", "", f"sum_{len(d.nodes)}")
            normed = d.node("SkipSimplifiedLayerNormalization", stream, block, ones, outputs=fused, **ms, epsilon=1e-6)
            stream = fused[-1]
    d.node("MatMul", normed, d.weight(WIDTH, VOCABULARY), outputs=("logits",))
    d.nodes[-2].output[:] = [normed]  # the last sum is read by nobody
    return d.model(*ends(positions=False))


def token_rows(count: int = 16, length: int = 12, seed: int = 3) -> NDArray[np.int64]:
    """int64 [count, length] ids below the vocabulary."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, (count, length))


def _projected(d: Draft, values: str, inputs: int, outputs: int, *, nbits: bool) -> str:
    if not nbits:
        return d.node("MatMul", values, d.weight(inputs, outputs))
    packed = d.constant(d.generator.integers(0, 256, (outputs, inputs // 16, 8)), np.uint8)
    scales = d.constant(np.full((outputs, inputs // 16), 0.05))
    sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": 16}
    return d.node("MatMulNBits", values, packed, scales, domain="com.microsoft", **sizes)


def _parts(d: Draft, normed: str, packed: bool) -> list[str]:
    """Queries, keys and values, [batch, time, heads * head]."""
    widths = [HEADS * HEAD, PAIRS * HEAD, PAIRS * HEAD]
    if not packed:
        return [d.node("MatMul", normed, d.weight(WIDTH, width)) for width in widths]
    product = d.node("MatMul", normed, d.weight(WIDTH, sum(widths)))
    parts = tuple(f"{product}/{part}" for part in "qkv")
    d.node("Split", product, d.constant(widths, np.int64), outputs=parts, axis=-1)
    return list(parts)


def _rotated(d: Draft, heads: str, domain: str | None) -> str:
    """[batch, heads, time, head] with rotated positions."""
    if domain is None:
        return heads
    angles = np.outer(np.arange(LONGEST), 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD))
    tables = d.constant(np.cos(angles)), d.constant(np.sin(angles))
    order = (*tables, "position_ids") if domain == "" else ("position_ids", *tables)
    return d.node("RotaryEmbedding", heads, *order, domain=domain)


def _attended(d: Draft, q: str, keys: str, values: str, addend: str) -> str:
    scores = d.node("MatMul", q, d.node("Transpose", keys, perm=[0, 1, 3, 2]))
    scaled = d.node("Add", d.node("Mul", scores, d.constant(HEAD**-0.5)), addend)
    mixed = d.node("Transpose", d.node("MatMul", d.node("Softmax", scaled), values), perm=[0, 2, 1, 3])
    merged = d.node("Reshape", mixed, d.constant([0, 0, WIDTH], np.int64))
    return d.node("MatMul", merged, d.weight(WIDTH, WIDTH))


def _heads(d: Draft, values: str, heads: int) -> str:
    return d.node("Transpose", d.node("Reshape", values, d.constant([0, 0, heads, HEAD], np.int64)), perm=[0, 2, 1, 3])


def _repeated(d: Draft, values: str) -> str:
    """A head of keys or values for each head of queries."""
    sizes = d.node("Shape", values)
    batch, length = (d.node("Gather", sizes, d.constant([axis], np.int64)) for axis in (0, 2))
    wide = d.node(
        "Concat", batch, d.constant([PAIRS, HEADS // PAIRS], np.int64), length, d.constant([HEAD], np.int64), axis=0
    )
    expanded = d.node("Expand", d.node("Unsqueeze", values, d.constant([2], np.int64)), wide)
    return d.node("Reshape", expanded, d.constant([0, HEADS, -1, HEAD], np.int64))


def _causal(d: Draft) -> str:
    """Addend of scores, [batch, 1, new, all]."""
    total, new = (
        d.node("Gather", d.node("Shape", name), d.constant(1, np.int64)) for name in ("attention_mask", "input_ids")
    )
    one = d.constant(1, np.int64)
    rows = d.node("Unsqueeze", d.node("Range", d.node("Sub", total, new), total, one), d.constant([1], np.int64))
    columns = d.node("Range", d.constant(0, np.int64), total, one)
    there = d.node("Unsqueeze", d.node("Cast", "attention_mask", to=TensorProto.BOOL), d.constant([1, 2], np.int64))
    visible = d.node("And", d.node("LessOrEqual", columns, rows), there)
    return d.node("Where", visible, d.constant(0.0), d.constant(np.finfo(np.float32).min))
