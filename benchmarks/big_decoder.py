"""Write a synthetic fp32 decoder of any size with external data, and token ids to calibrate it with.

    python -m benchmarks.big_decoder FOLDER [--blocks 16] [--width 2048] [--vocabulary 32000] [--seed 0]
        [--samples 16] [--length 12]

FOLDER gets decoder.onnx, decoder.onnx.data and samples.npz. The graph is what exporters write in plain ONNX operators:
token embedding, then per block RMSNorm, grouped-query attention with rotary positions and a cache, RMSNorm and a gated
MLP; last a head of its own. Inputs are input_ids, attention_mask, position_ids and past_key_values.N.key and .value,
outputs logits and present.N.key and .value.

Weights are those of no trained model. What real ones do to a quantizer is imitated: heavy tails (normal values times
log-normal factors) and a few input channels that are many times as large as the others. Weights are made and written
one by one, so that memory does not grow with the model. It proves that a model of some size can be converted, and says
nothing about quality.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ALIGNMENT = 4096  # bytes
OUTLIERS, OUTLIER_FACTOR = 0.005, 12.0  # share of input channels, and how much larger they are
TAIL = 0.35  # spread of the logarithm of the factors
LONGEST = 4096  # positions


@dataclass(frozen=True)
class Shape:
    """Of a decoder. heads: of queries; keys: heads of keys and values; hidden: of the MLP."""

    blocks: int
    width: int
    heads: int
    keys: int
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, blocks: int, width: int, vocabulary: int) -> Shape:
        """In proportions of current models: heads of 64, four query heads a key head, an MLP of 2.75 widths."""
        heads = max(width // 64, 1)
        return cls(blocks, width, heads, max(heads // 4, 1), -(-width * 11 // 4 // 128) * 128, vocabulary)

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def parameters(self) -> int:
        attention = 2 * self.width * (self.width + self.keys * self.head)
        return self.blocks * (attention + 3 * self.width * self.hidden) + 2 * self.width * self.vocabulary


@dataclass
class Writer:
    """Nodes and constants of a graph; values of large ones go to a file at once."""

    data: IO[bytes]
    location: str
    generator: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op: str, inputs: Sequence[str], name: str, outputs: Sequence[str] = (), **attributes: object) -> str:
        """The first result, which has the node's name unless others are given."""
        made = list(outputs) or [f"{name}/out"]
        self.nodes.append(helper.make_node(op, list(inputs), made, name, **attributes))
        return made[0]

    def small(self, name: str, values: NDArray[np.generic]) -> str:
        if all(t.name != name for t in self.constants):
            self.constants.append(numpy_helper.from_array(values, name))
        return name

    def integers(self, *values: int) -> str:
        return self.small(f"const/{'_'.join(map(str, values))}", np.array(values, np.int64))

    def weight(self, name: str, rows: int, columns: int, gain: float = 1.0, *, table: bool = False) -> str:
        """[rows, columns], inputs first; outliers are among the inputs, of a table among the columns."""
        inputs = columns if table else rows
        loud = self.generator.random(inputs) < OUTLIERS
        factors = np.where(loud, np.float32(OUTLIER_FACTOR), np.float32(1.0))
        factors *= np.float32(gain if table else gain / np.sqrt(rows))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[rows, columns])
        tensor.data_location = TensorProto.EXTERNAL
        start = -(-self.data.tell() // ALIGNMENT) * ALIGNMENT
        self.data.write(bytes(start - self.data.tell()))
        step = max(2**24 // columns, 1)
        for first in range(0, rows, step):
            size = min(step, rows - first), columns
            values = self.generator.standard_normal(size, np.float32)
            values *= np.exp(np.float32(TAIL) * self.generator.standard_normal(size, np.float32))
            values *= factors if table else factors[first : first + size[0], None]
            self.data.write(values.data)
        for key, value in (("location", self.location), ("offset", start), ("length", 4 * rows * columns)):
            tensor.external_data.add(key=key, value=str(value))
        self.constants.append(tensor)
        return name


def write_decoder(path: Path, shape: Shape, seed: int = 0) -> None:
    """The model at `path`, its weights beside it."""
    beside = path.with_name(f"{path.name}.data")
    with beside.open("wb") as data:
        writer = Writer(data, beside.name, np.random.default_rng(seed))
        graph = _graph(writer, shape)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save_model(model, path)


def _graph(w: Writer, shape: Shape) -> onnx.GraphProto:
    table = w.weight("embedding", shape.vocabulary, shape.width, table=True)
    value = w.node("Gather", [table, "input_ids"], "embed")
    mask, cosine, sine = _mask(w), *_positions(w, shape)
    presents: list[str] = []
    for number in range(shape.blocks):
        made, key, kept = _attention(
            w, shape, number, _norm(w, shape, value, f"block{number}/norm1"), mask, cosine, sine
        )
        value = w.node("Add", [value, made], f"block{number}/add1")
        mlp = _mlp(w, shape, number, _norm(w, shape, value, f"block{number}/norm2"))
        value = w.node("Add", [value, mlp], f"block{number}/add2")
        presents += [key, kept]
    last = _norm(w, shape, value, "norm")
    head = w.weight("head", shape.width, shape.vocabulary)
    w.node("MatMul", [last, head], "head", ["logits"])
    return helper.make_graph(w.nodes, "decoder", _inputs(shape), _outputs(shape, presents), w.constants)


def _inputs(shape: Shape) -> list[onnx.ValueInfoProto]:
    integers = {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "total"]}
    integers["position_ids"] = ["batch", "sequence"]
    cache = ["batch", shape.keys, "past", shape.head]
    found = [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name, dims in integers.items()]
    for number in range(shape.blocks):
        for part in ("key", "value"):
            name = f"past_key_values.{number}.{part}"
            found.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache))
    return found


def _outputs(shape: Shape, presents: Sequence[str]) -> list[onnx.ValueInfoProto]:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", shape.vocabulary])
    cache = ["batch", shape.keys, "total", shape.head]
    return [logits, *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in presents)]


def _mask(w: Writer) -> str:
    """[batch, 1, sequence, total]: 0 where a token may look, -1e9 elsewhere."""
    length = w.node("Shape", ["attention_mask"], "mask/length", start=1, end=2)
    total = w.node("Squeeze", [length, w.integers(0)], "mask/total")
    zero, one = (w.small(f"const/scalar{n}", np.array(n, np.int64)) for n in (0, 1))
    places = w.node("Range", [zero, total, one], "mask/places")
    queries = w.node("Unsqueeze", ["position_ids", w.integers(2)], "mask/queries")
    causal = w.node("LessOrEqual", [places, queries], "mask/causal")
    given = w.node("Cast", ["attention_mask"], "mask/given", to=TensorProto.BOOL)
    given = w.node("Unsqueeze", [given, w.integers(1)], "mask/given3")
    seen = w.node("And", [causal, given], "mask/seen")
    free, closed = w.small("const/free", np.float32([0])), w.small("const/closed", np.float32([-1e9]))
    bias = w.node("Where", [seen, free, closed], "mask/bias")
    return w.node("Unsqueeze", [bias, w.integers(1)], "mask/bias4")


def _positions(w: Writer, shape: Shape) -> tuple[str, str]:
    """Cosine and sine for each token, [batch, 1, sequence, head / 2]."""
    half = shape.head // 2
    angles = np.arange(LONGEST)[:, None] / 10000.0 ** (np.arange(half) / half)
    found = []
    for name, values in (("cosine", np.cos(angles)), ("sine", np.sin(angles))):
        rows = w.node(
            "Gather", [w.small(f"rotary/{name}", values.astype(np.float32)), "position_ids"], f"rotary/{name}"
        )
        found.append(w.node("Unsqueeze", [rows, w.integers(1)], f"rotary/{name}4"))
    return found[0], found[1]


def _norm(w: Writer, shape: Shape, value: str, name: str) -> str:
    gains = np.exp(0.2 * w.generator.standard_normal(shape.width)).astype(np.float32)
    square = w.node("Mul", [value, value], f"{name}/square")
    mean = w.node("ReduceMean", [square, w.integers(-1)], f"{name}/mean", keepdims=1)
    moved = w.node("Add", [mean, w.small("const/epsilon", np.array(1e-5, np.float32))], f"{name}/moved")
    scaled = w.node("Div", [value, w.node("Sqrt", [moved], f"{name}/root")], f"{name}/scaled")
    return w.node("Mul", [scaled, w.small(f"{name}/gain", gains)], name)


def _attention(
    w: Writer, shape: Shape, number: int, value: str, mask: str, cosine: str, sine: str
) -> tuple[str, str, str]:
    """The result, and the names of the new keys and values."""
    name, narrow = f"block{number}/attention", shape.keys * shape.head
    sizes = {"q": shape.width, "k": narrow, "v": narrow}
    parts = {}
    for part, columns in sizes.items():
        made = w.node("MatMul", [value, w.weight(f"{name}/{part}.weight", shape.width, columns)], f"{name}/{part}")
        heads = w.node("Reshape", [made, w.integers(0, 0, columns // shape.head, shape.head)], f"{name}/{part}/heads")
        parts[part] = w.node("Transpose", [heads], f"{name}/{part}/turned", perm=[0, 2, 1, 3])
    queries, keys = (_rotated(w, shape, parts[p], cosine, sine, f"{name}/{p}") for p in "qk")
    joined = {}
    for part, fresh in (("key", keys), ("value", parts["v"])):
        given, made = f"past_key_values.{number}.{part}", f"present.{number}.{part}"
        joined[part] = w.node("Concat", [given, fresh], f"{name}/{part}/joined", [made], axis=2)
    wide = [_repeated(w, shape, joined[part], f"{name}/{part}") for part in joined]
    turned = w.node("Transpose", [wide[0]], f"{name}/keys/turned", perm=[0, 1, 3, 2])
    scale = w.small("const/scale", np.array(shape.head**-0.5, np.float32))
    scores = w.node("Mul", [w.node("MatMul", [queries, turned], f"{name}/scores"), scale], f"{name}/scaled")
    weights = w.node("Softmax", [w.node("Add", [scores, mask], f"{name}/masked")], f"{name}/softmax", axis=-1)
    read = w.node("MatMul", [weights, wide[1]], f"{name}/read")
    flat = w.node("Transpose", [read], f"{name}/read/turned", perm=[0, 2, 1, 3])
    flat = w.node("Reshape", [flat, w.integers(0, 0, shape.width)], f"{name}/read/flat")
    out = w.weight(f"{name}/o.weight", shape.width, shape.width, (2 * shape.blocks) ** -0.5)
    return w.node("MatMul", [flat, out], f"{name}/o"), joined["key"], joined["value"]


def _rotated(w: Writer, shape: Shape, value: str, cosine: str, sine: str, name: str) -> str:
    half = shape.head // 2
    low, high = f"{name}/low", f"{name}/high"
    w.node("Split", [value, w.integers(half, half)], f"{name}/halves", [low, high], axis=3)
    products = {
        key: w.node("Mul", [part, factor], f"{name}/{key}")
        for key, part, factor in (("lc", low, cosine), ("hs", high, sine), ("hc", high, cosine), ("ls", low, sine))
    }
    first = w.node("Sub", [products["lc"], products["hs"]], f"{name}/first")
    second = w.node("Add", [products["hc"], products["ls"]], f"{name}/second")
    return w.node("Concat", [first, second], f"{name}/rotated", axis=3)


def _repeated(w: Writer, shape: Shape, value: str, name: str) -> str:
    """Each head of keys or values for all query heads that read it."""
    times = shape.heads // shape.keys
    apart = w.node("Unsqueeze", [value, w.integers(2)], f"{name}/apart")
    wide = w.node("Expand", [apart, w.integers(1, 1, times, 1, 1)], f"{name}/wide")
    return w.node("Reshape", [wide, w.integers(0, shape.heads, -1, shape.head)], f"{name}/repeated")


def _mlp(w: Writer, shape: Shape, number: int, value: str) -> str:
    name = f"block{number}/mlp"
    gate, up = (
        w.node("MatMul", [value, w.weight(f"{name}/{part}.weight", shape.width, shape.hidden)], f"{name}/{part}")
        for part in ("gate", "up")
    )
    active = w.node("Mul", [gate, w.node("Sigmoid", [gate], f"{name}/sigmoid")], f"{name}/silu")
    product = w.node("Mul", [active, up], f"{name}/product")
    down = w.weight(f"{name}/down.weight", shape.hidden, shape.width, (2 * shape.blocks) ** -0.5)
    return w.node("MatMul", [product, down], f"{name}/down")


def write_samples(path: Path, shape: Shape, count: int = 16, past: int = 4, length: int = 12, seed: int = 0) -> None:
    """Random ids behind a short random cache, one row a sample."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.generic]] = {
        "input_ids": generator.integers(0, shape.vocabulary, (count, length)),
        "attention_mask": np.ones((count, past + length), np.int64),
        "position_ids": np.tile(np.arange(past, past + length), (count, 1)),
    }
    for number in range(shape.blocks):
        for part in ("key", "value"):
            values = generator.standard_normal((count, shape.keys, past, shape.head), np.float32)
            arrays[f"past_key_values.{number}.{part}"] = values
    np.savez(path, allow_pickle=False, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in (
        ("blocks", 16),
        ("width", 2048),
        ("vocabulary", 32000),
        ("seed", 0),
        ("samples", 16),
        ("length", 12),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    shape = Shape.of(given.blocks, given.width, given.vocabulary)
    given.folder.mkdir(parents=True, exist_ok=True)
    write_decoder(given.folder / "decoder.onnx", shape, given.seed)
    write_samples(given.folder / "samples.npz", shape, given.samples, length=given.length, seed=given.seed)
    print(f"{shape}: {shape.parameters / 1e6:.1f} million parameters, {4 * shape.parameters / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
