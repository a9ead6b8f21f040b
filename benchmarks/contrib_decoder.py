"""The sample decoder in onnxruntime's own operators: `python -m benchmarks.contrib_decoder FILE.onnx`.

As onnxruntime-genai's model builder writes decoders: one product for queries, keys and values, GroupQueryAttention
that rotates positions and holds the cache, norms with their skip. Weights are the sample's, and it is checked against
the sample.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.runtimes import open_session, run
from samples.decoder_graph import Shape, Writer

SAMPLE = Path(__file__).parent.parent / "samples" / "decoder" / "decoder.onnx"
LONGEST = 256  # positions that the tables of rotations hold
CONTRIB = "com.microsoft"


def shape_of(plain: onnx.ModelProto) -> Shape:
    """Sizes of the sample decoder, from its weights and its cache."""
    held = {t.name: list(t.dims) for t in plain.graph.initializer}
    caches = [i for i in plain.graph.input if i.name.startswith("past_key_values.")]
    pairs, head = (caches[0].type.tensor_type.shape.dim[axis].dim_value for axis in (1, 3))
    return Shape(*held["embedding"], len(caches) // 2, held["0.q"][1] // head, pairs, head, held["0.gate"][1])


def in_contrib_operators(plain: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs `input_ids`, `attention_mask` and the cache; outputs as the plain graph."""
    held = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}
    w, shape = Writer(), shape_of(plain)
    angles = np.outer(np.arange(LONGEST), shape.frequencies)
    tables = w.constant("cosines", np.cos(angles)), w.constant("sines", np.sin(angles))
    one = w.whole(1)
    last = w.node("Sub", w.node("ReduceSum", "attention_mask", one, keepdims=0), one)
    lengths = w.node("Cast", last, to=TensorProto.INT32), w.node("Cast", _total(w), to=TensorProto.INT32)
    stream = w.node("Gather", w.constant("embedding", held["embedding"]), "input_ids", axis=0)
    scales = [held[f"{n}.{part}_norm"] for n in range(shape.layers) for part in ("attention", "mlp")] + [held["norm"]]
    names = [w.constant(f"scale_{n}", value) for n, value in enumerate(scales)]
    normed = w.node("SimplifiedLayerNormalization", stream, names[0], axis=-1, epsilon=shape.epsilon, stash_type=1)
    for layer in range(shape.layers):
        part = {key: held[f"{layer}.{key}"] for key in ("q", "k", "v", "o", "gate", "up", "down")}
        packed = np.concatenate([part["q"], part["k"], part["v"]], axis=1)
        product = w.node("MatMul", normed, w.constant(f"{layer}.qkv", packed))
        attended = _attended(w, product, layer, shape, [*lengths, *tables])
        block = w.node("MatMul", attended, w.constant(f"{layer}.o", part["o"]))
        normed, stream = _skipped(w, stream, block, names[2 * layer + 1], shape)
        gate = w.node("MatMul", normed, w.constant(f"{layer}.gate", part["gate"]))
        up = w.node("MatMul", normed, w.constant(f"{layer}.up", part["up"]))
        hidden = w.node("Mul", w.node("Mul", gate, w.node("Sigmoid", gate)), up)
        block = w.node("MatMul", hidden, w.constant(f"{layer}.down", part["down"]))
        normed, stream = _skipped(w, stream, block, names[2 * layer + 2], shape)
    w.node("MatMul", normed, w.node("Transpose", "embedding", perm=[1, 0]), output="logits")
    inputs = [i for i in plain.graph.input if i.name != "position_ids"]
    graph = helper.make_graph(w.nodes, "decoder", inputs, plain.graph.output, list(w.constants.values()))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def _total(w: Writer) -> str:
    """Tokens in the cache and behind it, int64 []."""
    return w.node("Gather", w.node("Shape", "attention_mask"), w.constant("axis", 1, np.int64), axis=0)


def _attended(w: Writer, packed: str, layer: int, shape: Shape, more: list[str]) -> str:
    keys = [f"{layer}.{key}" for key in ("key", "value")]
    outputs = [f"attended_{layer}", *(f"present.{key}" for key in keys)]
    inputs = [packed, "", "", *(f"past_key_values.{key}" for key in keys), *more]
    heads = {"num_heads": shape.queries, "kv_num_heads": shape.pairs, "do_rotary": 1}
    w.nodes.append(helper.make_node("GroupQueryAttention", inputs, outputs, outputs[0], domain=CONTRIB, **heads))
    return outputs[0]


def _skipped(w: Writer, stream: str, block: str, scale: str, shape: Shape) -> tuple[str, str]:
    """(norm of the sum, sum)."""
    outputs = [f"normed_{len(w.nodes)}", "", "", f"sum_{len(w.nodes)}"]
    inputs, operator = [stream, block, scale], "SkipSimplifiedLayerNormalization"
    w.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], domain=CONTRIB, epsilon=shape.epsilon))
    return outputs[0], outputs[3]


def difference(made: onnx.ModelProto, plain: onnx.ModelProto, ids: NDArray[np.int64]) -> float:
    """Largest difference of logits, with the second half of the tokens behind the cache of the first."""
    half, count, shape = ids.shape[1] // 2, len(ids), shape_of(plain)
    found = []
    for proto in (plain, made):
        names, logits = [i.name for i in proto.graph.input], []
        cache = [np.zeros((count, shape.pairs, 0, shape.head), np.float32)] * (2 * shape.layers)
        for start in (0, half):
            places = np.broadcast_to(np.arange(start, start + half), (count, half))
            given = {"input_ids": ids[:, start : start + half], "position_ids": np.ascontiguousarray(places)}
            given["attention_mask"] = np.ones((count, start + half), np.int64)
            given |= dict(zip([n for n in names if n.startswith("past")], cache, strict=True))
            step, *cache = run(open_session(proto), {name: given[name] for name in names})
            logits.append(step)
        found.append(np.concatenate(logits, axis=1))
    return float(np.abs(found[0] - found[1]).max())


def main(destination: Path) -> None:
    plain = onnx.load(SAMPLE)
    made = in_contrib_operators(plain)
    ids = np.random.default_rng(0).integers(0, shape_of(plain).vocabulary, (1, 64))
    if (worst := difference(made, plain, ids)) > 1e-2:
        raise SystemExit(f"logits differ by {worst:.3g}")
    onnx.save(made, destination)
    print(f"wrote {destination}; logits differ by {worst:.2g} from the sample's")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
