"""A graph that grows node by node, each run as soon as it is added, and the ways to spell a weight in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.errors import OnnxmpqError
from onnxmpq.runtimes import SessionSettings, open_session, run
from tests.graphs import Array

DOMAIN, MICROSOFT = "local", "com.microsoft"


LARGEST = 1e3


LARGEST_WEIGHT = 1 << 15


class Refused(Exception):
    """A block that does not go with the tensor it was given."""


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
        need(np.prod(shape) <= LARGEST_WEIGHT)
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
        need(domain or onnx.defs.has(op, self.opset))
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
        infos = [helper.make_tensor_value_info(n, element(v), v.shape) for n, v in given.items()]
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


def element(values: Array) -> int:
    if values.dtype == object:
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(values.dtype))


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


def need(condition: object) -> None:
    if not condition:
        raise Refused
