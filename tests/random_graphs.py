"""Random small graphs of every kind of structure that a conversion meets, each valid and with finite outputs.

A graph grows block by block. Each node is run as soon as it is added, so its result's shape is known; a block that
the runtime refuses, or whose values leave the usual range, is taken back. All choices come from a `random.Random`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.errors import OnnxmpqError
from onnxmpq.runtimes import SessionSettings, open_session, run
from tests.graphs import Array

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25)
DOMAIN, MICROSOFT = "local", "com.microsoft"
LARGEST = 1e3
LARGEST_WEIGHT = 1 << 15
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


class Refused(Exception):
    """A block that does not go with the tensor it was given."""


@dataclass(frozen=True)
class RandomGraph:
    """samples: one feed each. blocks: names of what it was made of, in order."""

    proto: onnx.ModelProto
    samples: tuple[Mapping[str, Array], ...]
    blocks: tuple[str, ...]


@dataclass
class Builder:
    """A graph that grows. values: of every tensor for the first sample. weights: names of 2-D and larger constants."""

    rng: random.Random
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    made: int = 0

    # ---- parts ---------------------------------------------------------------------------------

    def name(self) -> str:
        self.made += 1
        return f"t{self.made}"

    def shape(self, tensor: str) -> tuple[int, ...]:
        return tuple(self.values[tensor].shape)

    def chance(self, one_in: int) -> bool:
        return self.rng.randrange(one_in) == 0

    def constant(self, values: object, dtype: type[np.generic] = np.float32) -> str:
        name = self.name()
        self.constants[name] = self.values[name] = np.asarray(values, dtype)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(list(values), np.int64)

    def random(self, *shape: int, spread: float = 1.0) -> Array:
        generator = np.random.default_rng(self.rng.getrandbits(32))
        return (generator.standard_normal(shape) * spread).astype(np.float32)

    def weight(self, *shape: int) -> str:
        """A weight, in one of the ways that exporters spell one; now and then one that another layer has."""
        _need(np.prod(shape) <= LARGEST_WEIGHT)
        alike = [w for w in self.weights if self.shape(w) == shape]
        if alike and self.chance(2):
            return self.rng.choice(alike)
        spread = max(float(np.prod(shape[1:] if len(shape) > 2 else shape[:1])), 1.0) ** -0.5
        values = self.random(*shape, spread=spread)
        name = self.rng.choice(_SPELLINGS)(self, values)
        self.weights.append(name)
        return name

    def bias(self, *shape: int) -> str:
        return self.constant(self.random(*shape, spread=0.1))

    def node(self, op: str, *inputs: str, outputs: int = 1, reads: Sequence[str] = (), **more: object) -> str:
        """The first output of a new node. reads: tensors that its bodies read."""
        return self.results(op, *inputs, outputs=outputs, reads=reads, **more)[0]

    def results(
        self, op: str, *inputs: str, outputs: int = 1, reads: Sequence[str] = (), domain: str = "", **more: object
    ) -> list[str]:
        """All outputs of a new node. Raises Refused where the runtime does not run it."""
        _need(domain or onnx.defs.has(op, self.opset))
        names = [self.name() for _ in range(outputs)]
        called = "" if self.chance(4) else f"n{self.made}"
        node = helper.make_node(op, inputs, names, called, domain=domain, **more)
        for name, value in zip(names, self._run(node, reads), strict=True):
            if (
                isinstance(value, np.ndarray)
                and value.dtype.kind == "f"
                and value.size
                and not np.abs(value).max() < LARGEST
            ):
                raise Refused
            self.values[name] = value
        self.nodes.append(node)
        return names

    def _run(self, node: onnx.NodeProto, reads: Sequence[str]) -> list[Array]:
        given = {n: self.values[n] for n in (*node.input, *reads) if n}
        infos = [helper.make_tensor_value_info(n, _element(v), v.shape) for n, v in given.items()]
        graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info(o) for o in node.output])
        try:
            return list(run(open_session(self.model(graph), SessionSettings(optimize=False)), given))
        except OnnxmpqError:
            raise Refused from None

    def model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        domains = {node.domain for node in graph.node} & {MICROSOFT} | ({DOMAIN} if self.functions else set())
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
        ir_version = 3 if self.opset < 9 and not self.functions else 8 if self.opset < 21 else 10
        return helper.make_model(graph, opset_imports=imports, functions=self.functions, ir_version=ir_version)

    def attempt(self, block: Callable[[Builder, str], str], tensor: str) -> str | None:
        """The block's result, or None with all that it added taken back."""
        nodes, values, constants = len(self.nodes), dict(self.values), dict(self.constants)
        functions, weights = len(self.functions), len(self.weights)
        try:
            return block(self, tensor)
        except Refused:
            del self.nodes[nodes:], self.functions[functions:], self.weights[weights:]
            self.values, self.constants = values, constants
            return None

    # ---- operators that changed ----------------------------------------------------------------

    def reduced(self, op: str, x: str, axis: int, *, keep: bool) -> str:
        if self.opset < (13 if op == "ReduceSum" else 18):
            return self.node(op, x, axes=[axis], keepdims=int(keep))
        return self.node(op, x, self.ints(axis), keepdims=int(keep))

    def sliced(self, x: str, axis: int, start: int, end: int) -> str:
        if self.opset < 10:
            return self.node("Slice", x, axes=[axis], starts=[start], ends=[end])
        return self.node("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def split(self, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
        if self.opset < 13:
            return self.results("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))
        return self.results("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis)

    def masked(self, mask: str, x: str, lowest: str) -> str:
        """Where; its result may be -inf."""
        names = [self.name()]
        node = helper.make_node("Where", [mask, x, lowest], names)
        (self.values[names[0]],) = self._run(node, ())
        self.nodes.append(node)
        return names[0]

    def reshaped(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.ints(*shape))


def _element(values: Array) -> int:
    if values.dtype == object:
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(values.dtype))


# ---- ways to spell a weight ---------------------------------------------------------------------


def _stored(b: Builder, values: Array) -> str:
    return b.constant(values)


def _as_node(b: Builder, values: Array) -> str:
    return b.node("Constant", value=numpy_helper.from_array(values))


def _identity(b: Builder, values: Array) -> str:
    return b.node("Identity", b.constant(values))


def _transposed(b: Builder, values: Array) -> str:
    order = list(range(values.ndim))[::-1]
    return b.node("Transpose", b.constant(np.ascontiguousarray(values.transpose(order))), perm=order)


def _cast(b: Builder, values: Array) -> str:
    return b.node("Cast", b.constant(values, b.rng.choice([np.float16, np.float64])), to=TensorProto.FLOAT)


def _flat(b: Builder, values: Array) -> str:
    return b.reshaped(b.constant(values.ravel()), *values.shape)


_SPELLINGS = (_stored, _stored, _stored, _as_node, _identity, _transposed, _cast, _flat)

# ---- blocks -------------------------------------------------------------------------------------


def _need(condition: object) -> None:
    if not condition:
        raise Refused


def _divisor(b: Builder, *numbers: int) -> int:
    return b.rng.choice([d for d in range(1, 9) if all(n % d == 0 for n in numbers)])


def conv(b: Builder, x: str) -> str:
    _need(3 <= len(shape := b.shape(x)) <= 5)
    groups = b.rng.choice([1, 1, shape[1], _divisor(b, shape[1])])
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
    _need(3 <= len(shape := b.shape(x)) <= 4)
    groups, rank = _divisor(b, shape[1]), len(shape) - 2
    each, kernel = b.rng.choice([1, 4]), [b.rng.choice([1, 2, 3])] * rank
    more: dict[str, object] = {"group": groups, "kernel_shape": kernel, "strides": [2] * rank}
    if b.chance(2):
        more["output_padding"] = [1] * rank
    bias = [b.bias(groups * each)] if b.chance(2) else []
    return b.node("ConvTranspose", x, b.weight(shape[1], each, *kernel), *bias, **more)


def matmul(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 2)
    inputs, outputs = shape[-1], b.rng.choice([8, 24, 48, 96])
    form = b.rng.choice(["plain", "plain", "batched", "one", "vector"])
    if form == "vector":
        _need(len(shape) > 2)
        return b.node("MatMul", x, b.weight(inputs))
    batch = {"plain": [], "one": [1] * (len(shape) - 2), "batched": [1, *shape[1:-2]][: len(shape) - 2]}[form]
    product = b.node("MatMul", x, b.weight(*batch, inputs, outputs))
    if b.chance(2):
        return product
    pair = [product, b.bias(outputs)]
    b.rng.shuffle(pair)
    return b.node("Add", *pair)


def matmul_left(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 3)
    return b.node("MatMul", b.weight(b.rng.choice([4, 10]), shape[-2]), x)


def einsum(b: Builder, x: str) -> str:
    """As exporters of attention write linear layers: the last axis, or the last two, to one or two new ones."""
    _need(b.opset >= 12 and len(shape := b.shape(x)) >= 2)
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
    _need(len(shape := b.shape(x)) == 2)
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
    _need(len(shape := b.shape(x)) == 3)
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
    _need(len(shape := b.shape(x)) == 3)
    q, k, v = (b.node("MatMul", x, b.weight(shape[2], 32)) for _ in range(3))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 1]))
    scaled = b.node("Div", scores, b.constant(4.0))
    if b.chance(2):
        mask = b.constant(np.arange(shape[1]) % 2 == 0, np.bool_)
        lowest = b.constant(b.rng.choice([-1e4, float(np.finfo(np.float32).min), -np.inf]))
        scaled = b.masked(mask, scaled, lowest)
    return b.node("MatMul", b.node("Softmax", scaled, axis=2), v)


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
    _need(others)
    op = b.rng.choice(["Add", "Add", "Mul", "Max", "Concat"])
    pair = [x, b.rng.choice(others)]
    _need(op != "Concat" or len(b.shape(x)) > 1)
    return b.node(op, *pair, **({"axis": 1} if op == "Concat" else {}))


def product_of_activations(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 3)
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return b.node("Div", b.node("MatMul", x, b.node("Transpose", x, perm=order)), b.constant(float(shape[-1])))


def pool(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 3)
    op = b.rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
    if op.startswith("Global"):
        return b.node(op, x)
    return b.node(op, x, kernel_shape=[2] * (len(shape) - 2), strides=[b.rng.choice([1, 2])] * (len(shape) - 2))


def normalized(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 2)
    op = b.rng.choice(["BatchNormalization", "LayerNormalization", "InstanceNormalization", "centred"])
    if op == "centred":
        return b.node("Sub", x, b.reduced("ReduceMean", x, len(shape) - 1, keep=True))
    channels = shape[-1] if op == "LayerNormalization" else shape[1]
    scale, bias = b.constant(1 + np.abs(b.random(channels))), b.bias(channels)
    if op == "BatchNormalization":
        return b.node(op, x, scale, bias, b.bias(channels), b.constant(1 + np.abs(b.random(channels))))
    return b.node(op, x, scale, bias)


def split_and_joined(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 2)
    axis = b.rng.randrange(1, len(shape))
    _need(shape[axis] > 1)
    first = b.rng.randrange(1, shape[axis])
    parts = b.split(x, axis, [first, shape[axis] - first])
    parts[0] = b.node("Relu", parts[0])
    b.rng.shuffle(parts)
    return b.node("Concat", *parts, axis=axis)


def moved(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 3)
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
    _need(len(shape := b.shape(x)) >= 2)
    return b.node("Gather", x, b.ints(*(b.rng.randrange(shape[1]) for _ in range(4))), axis=1)


def nothing_joined(b: Builder, x: str) -> str:
    """A Concat with a tensor that has no elements."""
    _need(len(b.shape(x)) >= 2)
    return b.node("Concat", x, b.node("Relu", b.sliced(x, 1, 0, 0)), axis=1)


def as_sequence(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 2 and all(shape) and b.opset >= 11)
    parts, joined = b.name(), b.name()
    nodes = [
        helper.make_node("SplitToSequence", [x], [parts], axis=1),
        helper.make_node("ConcatFromSequence", [parts], [joined], axis=1),
    ]
    b.nodes += nodes
    b.values[joined] = b.values[x]
    return joined


def as_optional(b: Builder, x: str) -> str:
    _need(b.opset >= 18)
    kept, there = b.name(), b.name()
    b.nodes += [
        helper.make_node("Optional", [x], [kept]),
        helper.make_node("OptionalGetElement", [kept], [there]),
    ]
    b.values[there] = b.values[x]
    return there


def resized(b: Builder, x: str) -> str:
    """Inputs in the middle of the list that are left out."""
    _need(len(shape := b.shape(x)) == 4 and b.opset >= 13)
    mode = b.rng.choice(["nearest", "linear"])
    if b.chance(2):
        return b.node("Resize", x, "", b.constant([1, 1, 2, 2]), mode=mode)
    return b.node("Resize", x, "", "", b.ints(shape[0], shape[1], 5, 9), mode=mode)


def contrib(b: Builder, x: str) -> str:
    """An operator of onnxruntime's own domain."""
    _need(len(shape := b.shape(x)) >= 2)
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
    _need(b.shape(total) == ())
    return b.node("Mul", x, b.node("Sigmoid", total))


def other_type(b: Builder, x: str) -> str:
    wide = b.node("Cast", x, to=b.rng.choice([TensorProto.FLOAT16, TensorProto.DOUBLE]))
    return b.node("Cast", b.node("Add", wide, wide), to=TensorProto.FLOAT)


def _flag(b: Builder) -> str:
    """A constant, or computed from an input alone: what is quantized on the way may tip a scale."""
    if b.chance(2):
        return b.constant(b.chance(2), np.bool_)
    total = b.node("ReduceSum", b.node("Cast", b.rng.choice(b.inputs), to=TensorProto.FLOAT), keepdims=0)
    return b.node("Greater", total, b.constant(0.0))


def _body(
    b: Builder,
    nodes: Sequence[onnx.NodeProto],
    ins: Sequence[onnx.ValueInfoProto],
    outs: Sequence[onnx.ValueInfoProto],
    stored: Sequence[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    return helper.make_graph(nodes, b.rng.choice(["body", "b"]), ins, outs, stored)


def _float(name: str, rank: int | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None if rank is None else [None] * rank)


def _outer_or_own(b: Builder, size: int) -> tuple[str, list[str], list[onnx.TensorProto]]:
    """A square weight of the graph, or of the body: its name, what the body reads, what it stores."""
    _need(size * size <= LARGEST_WEIGHT)
    if b.chance(2):
        name = b.weight(size, size)
        return name, [name], []
    return "own", [], [numpy_helper.from_array(b.random(size, size, spread=max(size, 1) ** -0.5), "own")]


def branches(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 2)
    made = []
    reads = [x]
    for op in ("Relu", "Tanh"):
        name, outer, stored = _outer_or_own(b, shape[-1])
        nodes = [helper.make_node("MatMul", [x, name], ["m"]), helper.make_node(op, ["m"], ["o"])]
        made.append(_body(b, nodes, [], [_float("o")], stored))
        reads += outer
    return b.node("If", _flag(b), reads=list(dict.fromkeys(reads)), then_branch=made[0], else_branch=made[1])


def loop(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 2)
    name, outer, stored = _outer_or_own(b, shape[-1])
    nodes = [
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("MatMul", ["s", name], ["m"]),
        helper.make_node("Tanh", ["m"], ["r"]),
    ]
    ins = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        _float("s"),
    ]
    body = _body(b, nodes, ins, [helper.make_tensor_value_info("d", TensorProto.BOOL, []), _float("r")], stored)
    return b.node("Loop", b.constant(2, np.int64), "", x, reads=outer, body=body)


def scan(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) == 3 and b.opset >= 9)
    name, outer, stored = _outer_or_own(b, shape[-1])
    nodes = [
        helper.make_node("MatMul", ["e", name], ["m"]),
        helper.make_node("Add", ["m", "s"], ["a"]),
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Identity", ["t"], ["u"]),
    ]
    body = _body(b, nodes, [_float("s", 2), _float("e", 2)], [_float("t", 2), _float("u", 2)], stored)
    start = b.sliced(x, 1, 0, 1)
    start = b.node("Squeeze", start, axes=[1]) if b.opset < 13 else b.node("Squeeze", start, b.ints(1))
    axes = {"scan_input_axes": [1], "scan_output_axes": [1]}
    return b.results("Scan", start, x, outputs=2, reads=outer, body=body, num_scan_inputs=1, **axes)[1]


def function(b: Builder, x: str) -> str:
    _need(len(shape := b.shape(x)) >= 2 and b.opset >= 15)
    name = f"F{len(b.functions)}"
    nodes = [helper.make_node("MatMul", ["p", "w"], ["m"]), helper.make_node("Relu", ["m"], ["r"])]
    imports = [helper.make_opsetid("", b.opset)]
    b.functions.append(helper.make_function(DOMAIN, name, ["p", "w"], ["r"], nodes, imports))
    once = b.node(name, x, b.weight(shape[-1], shape[-1]), domain=DOMAIN)
    return b.node(name, once, b.weight(shape[-1], shape[-1]), domain=DOMAIN) if b.chance(2) else once


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

# ---- graphs -------------------------------------------------------------------------------------


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
    inputs = [helper.make_tensor_value_info(n, _element(b.values[n]), shape) for n, shape in declared.items()]
    read = {i for node in b.nodes for i in node.input} | {r for node in b.nodes for r in _inner_reads(node)}
    stored = [numpy_helper.from_array(np.asarray(v), n) for n, v in b.constants.items() if n in read]
    if (b.opset < 9 and not b.functions) or b.chance(6):
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored]
    ends = [helper.make_tensor_value_info(o, _element(b.values[o]), [None] * b.values[o].ndim) for o in kept]
    return b.model(helper.make_graph(b.nodes, "random", inputs, ends, stored, doc_string="a random graph"))


def _inner_reads(node: onnx.NodeProto) -> set[str]:
    return {i for a in node.attribute if a.HasField("g") for n in a.g.node for i in n.input}
