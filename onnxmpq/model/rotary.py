"""Rotary positions written as ONNX's operator RotaryEmbedding, where halves of each head are turned:

    x · cos + concat(-second half of x, first half of x) · sin

with cosine and sine of angles that both halves share. Other forms (pairs of neighbours) stay as they are.
Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html (opset 23); Su et al., RoFormer (2021), section 3.4.2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from onnxmpq.model.attention import HEADS, SIZE, TOKENS, dims_of, is_one, uncut
from onnxmpq.model.index import GraphIndex
from onnxmpq.model.operators.types import attributes_of
from onnxmpq.model.replacing import Replacing
from onnxmpq.model.store import array_of

_BY_ELEMENT = frozenset({"Cos", "Sin", "Identity"})
_LAST = (-1, SIZE)


@dataclass(frozen=True)
class _Turned:
    """A rotation. nodes: names of those that it is spelled by. tensor: [batch, heads, tokens, size]. cosine, sine: as
    they are multiplied with it."""

    nodes: tuple[str, ...]
    tensor: str
    cosine: str
    sine: str
    result: str


def fuse_rotary(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, tuple[str, ...]]]:
    """A tidy, folded graph of opset 23 or later with each rotation as one node, and for each new node the names of
    those that it stands for. A new graph, or `proto` itself where there is none.

    Cosine and sine must be as long as one of the tensors that they turn, and of no other length than any.
    """
    index = GraphIndex(proto)
    found = [t for node in index.nodes if (t := _rotation(index, node)) is not None]
    fitting = {(t.cosine, t.sine) for t in found if _as_long(index, t) and _as_long(index, t, t.sine)}
    writer = _Writer(proto)
    for turned in found:
        if (turned.cosine, turned.sine) in fitting and _as_long(index, turned) is not False:
            writer.write(turned)
    return (writer.to.graph(), writer.to.made_for) if writer.to.made_for else (proto, {})


# ---- finding --------------------------------------------------------------------------------------------------------


def _rotation(index: GraphIndex, add: onnx.NodeProto) -> _Turned | None:
    """The rotation whose last node this is, None where it is none."""
    if not is_one(add, "Add"):
        return None
    products = [index.producer.get(t) for t in add.input]
    for one, other in (products, products[::-1]):
        if one is None or other is None or not (is_one(one, "Mul") and is_one(other, "Mul")):
            return None
        for tensor, cosine in (tuple(one.input), tuple(reversed(one.input))):
            for turned, sine in (tuple(other.input), tuple(reversed(other.input))):
                nodes = _half_turn(index, turned, tensor)
                if nodes and _doubled(index, cosine) and _doubled(index, sine):
                    names = tuple(n.name for n in (*nodes, one, other, add))
                    return _Turned(names, tensor, cosine, sine, add.output[0])
    return None


def _half_turn(index: GraphIndex, turned: str, tensor: str) -> tuple[onnx.NodeProto, ...]:
    """Nodes that make [-second half, first half] of a tensor's last axis, none where a tensor is something else."""
    concat, dims = index.producer.get(turned), dims_of(index, tensor)
    if concat is None or not is_one(concat, "Concat") or dims is None or len(dims) != SIZE + 1:
        return ()
    size = dims[SIZE]
    if not isinstance(size, int) or size % 2 or not isinstance(dims[HEADS], int) or len(concat.input) != 2:
        return ()
    negated = index.producer.get(concat.input[0])
    if attributes_of(concat).get("axis") not in _LAST or negated is None or not is_one(negated, "Neg"):
        return ()
    halves = [index.producer.get(t) for t in (concat.input[1], negated.input[0])]
    first, second = halves
    if first is None or second is None or first.input[0] != tensor or second.input[0] != tensor:
        return ()
    if is_one(first, "Split") and first is second:
        split = attributes_of(first).get("axis", 0) in _LAST and len(first.output) == 2
        even = dims_of(index, first.output[0]) == (*dims[:SIZE], size // 2)
        in_order = [concat.input[1], negated.input[0]] == list(first.output)
        return (first, negated, concat) if split and even and in_order else ()
    sliced = _slice(index, first, size) == (0, size // 2) and _slice(index, second, size) == (size // 2, size)
    return (first, second, negated, concat) if sliced else ()


def _slice(index: GraphIndex, node: onnx.NodeProto, size: int) -> tuple[int, int] | None:
    """(start, end) of a Slice of the last axis alone, by steps of one."""
    if not is_one(node, "Slice") or any(t not in index.constants for t in node.input[1:] if t):
        return None
    given = [array_of(index.constants[t]).reshape(-1).tolist() for t in node.input[1:] if t]
    if len(given) < 3 or any(len(values) != 1 for values in given) or given[2][0] not in _LAST:
        return None
    if len(given) > 3 and given[3] != [1]:
        return None
    start, end = (min(v, size) if v >= 0 else max(v + size, 0) for v in (given[0][0], given[1][0]))
    return start, end


def _chain(index: GraphIndex, tensor: str) -> Iterator[onnx.NodeProto]:
    """Nodes by which a tensor is made from one whose last axis holds something twice, the last one first."""
    while (node := index.producer.get(tensor)) is not None:
        yield node
        tensor = _followed(index, node)
        if not tensor:
            return


def _followed(index: GraphIndex, node: onnx.NodeProto) -> str:
    """The input whose last axis a node keeps, "" for none."""
    if is_one(node, *_BY_ELEMENT):
        return str(node.input[0])
    if is_one(node, "Unsqueeze") and node.input[1] in index.constants:
        dims, axes = dims_of(index, node.output[0]), array_of(index.constants[node.input[1]]).reshape(-1).tolist()
        return str(node.input[0]) if dims is not None and all(0 <= a < len(dims) - 1 for a in axes) else ""
    if is_one(node, "Mul"):  # by what attention is scaled with for long contexts
        scalars = [index.scalar(t) is not None for t in node.input]
        return str(node.input[scalars.index(False)]) if scalars.count(True) == 1 else ""
    return ""


def _doubled(index: GraphIndex, tensor: str) -> bool:
    """True if both halves of a tensor's last axis are equal: it is made from a Concat of one thing with itself."""
    *_, last = [None, *_chain(index, tensor)]
    if last is None or not is_one(last, "Concat") or len(set(last.input)) != 1 or len(last.input) != 2:
        return False
    dims = dims_of(index, last.output[0])
    return dims is not None and attributes_of(last).get("axis") in (-1, len(dims) - 1)


def _as_long(index: GraphIndex, turned: _Turned, angles: str = "") -> bool | None:
    """True if cosine, or what is given, is [batch, 1, tokens, size] of a tensor, False if not, None for unknown."""
    given, needed = dims_of(index, angles or turned.cosine), dims_of(index, turned.tensor)
    if given is None or needed is None or len(given) != SIZE + 1 or given[HEADS] != 1 or given[SIZE] != needed[SIZE]:
        return False
    pairs = [(given[axis], needed[axis]) for axis in (0, TOKENS)]
    if all(a is not None and a == b for a, b in pairs):
        return True
    return False if any(isinstance(a, int) and a != b for a, b in pairs) else None


# ---- writing --------------------------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.to = Replacing(proto)
        self.index = self.to.index
        self._halves: dict[str, str] = {}
        self._angles: dict[str, str] = {}

    def write(self, turned: _Turned) -> None:
        """In front of the Reshape and Transpose that cut tokens into heads, where these are there."""
        parts, stem = turned.nodes, turned.nodes[-1]
        angles = [self._of_tokens(t, parts) for t in (turned.cosine, turned.sine)]
        transpose, by_tokens = uncut(self.index, turned.tensor)
        if not by_tokens:
            self.to.replace("RotaryEmbedding", f"{stem}/rotary", [turned.tensor, *angles], [turned.result], parts)
            return
        heads = (dims_of(self.index, turned.tensor) or ())[HEADS]
        reshape = self.index.producer[transpose.input[0]]
        whole = self.to.add("RotaryEmbedding", f"{stem}/rotary", [by_tokens, *angles], parts, num_heads=heads)
        cut = self.to.add("Reshape", f"{stem}/cut", [whole, reshape.input[1]], parts, **attributes_of(reshape))
        self.to.replace("Transpose", f"{stem}/heads", [cut], [turned.result], parts, **attributes_of(transpose))

    def _of_tokens(self, tensor: str, parts: tuple[str, ...]) -> str:
        """Cosines or sines as [batch, tokens, half of a head's size]."""
        if tensor not in self._angles:
            axis = self.to.constant(f"{tensor}/axis", [HEADS])
            half = self._half(tensor, parts)
            self._angles[tensor] = self.to.add("Squeeze", f"{tensor}/by_token", [half, axis], parts)
        return self._angles[tensor]

    def _half(self, tensor: str, parts: tuple[str, ...]) -> str:
        """A tensor whose last axis holds something twice, made from it once."""
        if tensor not in self._halves:
            node = self.index.producer[tensor]
            if is_one(node, "Concat"):
                self._halves[tensor] = node.input[0]
            else:
                followed = _followed(self.index, node)
                inputs = [self._half(t, parts) if t == followed else t for t in node.input]
                attributes = attributes_of(node)
                self._halves[tensor] = self.to.add(node.op_type, f"{tensor}/half", inputs, parts, **attributes)
        return self._halves[tensor]
