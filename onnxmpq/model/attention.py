"""Attention that is spelled out in a graph, found by its second product.

    softmax(scale · Q · Kᵀ + mask) · V

with what stands around it: the cache of keys and values that grows by a Concat, heads of keys and values that are
repeated for groups of queries, and the Reshapes and Transposes that cut tokens into heads and join them again. Q, K and
V are [batch, heads, tokens, size of a head] between these, and [batch, tokens, heads x size] outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx

from onnxmpq.model.index import GraphIndex, read_by
from onnxmpq.model.operators.types import attributes_of
from onnxmpq.model.store import array_of

Dim = int | str | None
"""Of a tensor: its length, the name of a length that is known at run time, or None."""

HEADS, TOKENS, SIZE = 1, 2, 3
"""Axes of Q, K and V."""
_SWAPPED, _TURNED, _TO_HEADS = [0, 1, 3, 2], [0, 2, 3, 1], [0, 2, 1, 3]
"""Orders of axes: K to Kᵀ, K by tokens to Kᵀ, and between heads and tokens, in both directions."""
_STANDARD = ("", "ai.onnx")
_INFERRED = "unk__"
"""Begins the names that onnx gives to lengths that it cannot tell."""


@dataclass(frozen=True)
class Side:
    """Keys or values, [batch, heads, tokens, size]; what is new of them where there is a cache.

    by_tokens: the same as [batch, tokens, heads x size], "" where the graph has none. past, present: the cache before
    and after, "" for none. heads: of the tensor.
    """

    tensor: str
    heads: int
    by_tokens: str = ""
    past: str = ""
    present: str = ""


@dataclass(frozen=True)
class Attention:
    """An attention in a graph.

    nodes: names of those that it is spelled by. queries, by_tokens: in both shapes, as of a `Side`. heads: of queries.
    factors: computed scalars that queries or keys are multiplied with, beside `scale`. mask: what is added to the
    scores, "" for nothing. result: [batch, heads, tokens, size]. joined: the same by tokens, "" where nothing reads
    that.
    """

    nodes: tuple[str, ...]
    queries: str
    by_tokens: str
    heads: int
    keys: Side
    values: Side
    scale: float
    factors: tuple[str, ...]
    mask: str
    result: str
    joined: str

    @property
    def grouped(self) -> bool:
        """Several heads of queries share one of keys and values."""
        return self.keys.heads != self.heads


def find_attentions(index: GraphIndex) -> list[Attention]:
    """All attentions of a folded graph, in its order, on float32 of known numbers of heads."""
    return [found for node in index.nodes if (found := _Finder(index).behind(node)) is not None]


def dims_of(index: GraphIndex, tensor: str) -> tuple[Dim, ...] | None:
    """Dimensions of a tensor, None where their number is unknown."""
    if tensor in index.constants:
        return tuple(index.constants[tensor].dims)
    info = index.infos.get(tensor)
    if info is None or not info.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in info.type.tensor_type.shape.dim
    )


def uncut(index: GraphIndex, tensor: str) -> tuple[onnx.NodeProto, str]:
    """Of a tensor [batch, heads, tokens, size] the Transpose that makes it, and the [batch, tokens, heads x size] from
    which it is cut; "" where it is not."""
    transpose = index.producer.get(tensor, onnx.NodeProto())
    cut = is_one(transpose, "Transpose") and _order(transpose) == _TO_HEADS
    return transpose, _before_cut(index, transpose.input[0]) if cut else ""


def _before_cut(index: GraphIndex, tensor: str) -> str:
    """[batch, tokens, heads x size] of [batch, tokens, heads, size], "" where it is not made by a Reshape."""
    reshape = index.producer.get(tensor)
    if reshape is None or not is_one(reshape, "Reshape"):
        return ""
    return reshape.input[0] if _cuts(index, reshape.input[0], tensor, reshape) else ""


def _cuts(index: GraphIndex, whole: str, cut: str, reshape: onnx.NodeProto) -> bool:
    """True if a Reshape between them only cuts or joins the last axis: [batch, tokens, heads x size] to or from
    [batch, tokens, heads, size]. One of the first two axes may be unknown: the other one and the size tell it."""
    long, short = dims_of(index, cut), dims_of(index, whole)
    if long is None or short is None or len(long) != 4 or len(short) != 3:
        return False
    heads, size, together = long[2], long[3], short[2]
    if not isinstance(heads, int) or not isinstance(size, int) or together != heads * size:
        return False
    kept = _copied(index, reshape)
    return any(axis in kept or (long[axis] is not None and long[axis] == short[axis]) for axis in (0, 1))


def _copied(index: GraphIndex, reshape: onnx.NodeProto) -> set[int]:
    """Axes that a Reshape keeps by a 0 in its shape."""
    shape = index.constants.get(reshape.input[1])
    if shape is None or attributes_of(reshape).get("allowzero", 0):
        return set()
    return {axis for axis, length in enumerate(array_of(shape).tolist()) if length == 0}


@dataclass(frozen=True)
class _Product:
    """A tensor that is multiplied with scalars. nodes: that do it."""

    tensor: str
    nodes: tuple[onnx.NodeProto, ...] = ()
    scale: float = 1.0
    factors: tuple[str, ...] = ()

    def along(self, *nodes: onnx.NodeProto) -> _Product:
        return replace(self, nodes=(*self.nodes, *nodes))


class _Finder:
    def __init__(self, index: GraphIndex) -> None:
        self.index = index

    def behind(self, product: onnx.NodeProto) -> Attention | None:
        """The attention whose second product a node is, None where it is none."""
        if not is_one(product, "MatMul") or not self.index.is_float(product.output[0]):
            return None
        softmax = self._only(product.input[0], product, "Softmax")
        if softmax is None or attributes_of(softmax).get("axis", -1) not in (-1, SIZE):
            return None
        for scores, mask, nodes in self._scores(softmax):
            found = self._attention(product, scores, mask)
            if found is not None:
                names = (n.name for n in (*nodes, softmax, product))
                return replace(found, nodes=tuple(dict.fromkeys((*found.nodes, *names))))
        return None

    def _scores(self, softmax: onnx.NodeProto) -> Iterator[tuple[_Product, str, list[onnx.NodeProto]]]:
        """Readings of a softmax: scaled results of a product, the mask added to them, and the node that adds it."""
        added = self._only(softmax.input[0], softmax, "Add")
        if added is None:
            yield self._scaled(softmax.input[0], softmax), "", []
            return
        for inner, mask in (tuple(added.input), tuple(reversed(added.input))):
            yield self._scaled(inner, added), mask, [added]

    def _attention(self, product: onnx.NodeProto, scores: _Product, mask: str) -> Attention | None:
        """product: the second one. The first one makes `scores`."""
        first = self.index.producer.get(scores.tensor)
        if first is None or not is_one(first, "MatMul"):
            return None
        queries, turned = self._scaled(first.input[0], first), self._turned(first)
        values = self._side(product.input[1])
        if turned is None or values is None:
            return None
        (keys, along), (values_side, others) = turned, values
        heads, size = self._at(queries.tensor, HEADS), self._at(queries.tensor, SIZE)
        if not isinstance(heads, int) or keys.heads != values_side.heads or heads % keys.heads:
            return None
        if not _may_be_equal(size, self._at(keys.tensor, SIZE)):
            return None
        if self._one_for_all(queries.tensor, keys, values_side):
            return None
        if mask and not self._is_mask(mask):
            return None
        cached = bool(keys.past and values_side.past) and not self._needs(
            [mask, queries.tensor, *queries.factors, *along.factors, *scores.factors]
            + [t for side in (keys, values_side) for t in (side.tensor, side.past)],
            [keys.present, values_side.present],
        )
        keys, values_side = (_whole(s) if not cached else s for s in (keys, values_side))
        joined, joining = self._joined(product)
        nodes = (*scores.nodes, first, *queries.nodes, *along.nodes, *others, *joining)
        return Attention(
            nodes=tuple(n.name for n in nodes),
            queries=queries.tensor,
            by_tokens=uncut(self.index, queries.tensor)[1],
            heads=heads,
            keys=keys,
            values=values_side,
            scale=scores.scale * queries.scale * along.scale,
            factors=(*scores.factors, *queries.factors, *along.factors),
            mask=mask,
            result=product.output[0],
            joined=joined,
        )

    # ---- parts ----------------------------------------------------------------------------------------------

    def _turned(self, first: onnx.NodeProto) -> tuple[Side, _Product] | None:
        """Keys whose transpose is the second operand of the first product, and what they are multiplied with."""
        found = self._scaled(first.input[1], first)
        transpose = self.index.producer.get(found.tensor)
        if transpose is None or not is_one(transpose, "Transpose"):
            return None
        order, [given] = _order(transpose), transpose.input
        if order == _TURNED:
            by_tokens, heads = _before_cut(self.index, given), self._at(given, TOKENS)
            if not by_tokens or not isinstance(heads, int):
                return None
            return Side("", heads, by_tokens), found.along(transpose)
        if order != _SWAPPED:
            return None
        inner = self._scaled(given, transpose)
        side = self._side(inner.tensor)
        if side is None:
            return None
        along = replace(
            inner.along(*found.nodes, transpose, *side[1]),
            scale=found.scale * inner.scale,
            factors=(*found.factors, *inner.factors),
        )
        return side[0], along

    def _side(self, tensor: str) -> tuple[Side, tuple[onnx.NodeProto, ...]] | None:
        """Keys or values that have a tensor's values, and nodes that repeat their heads and make them longer."""
        inner, nodes = self._unrepeated(tensor)
        new, past, present = inner, "", ""
        grown = self.index.producer.get(inner)
        if grown is not None and self._adds_tokens(grown):
            (past, new), present, nodes = grown.input, inner, (*nodes, grown)
        heads = next((h for t in (inner, new, past) if t and isinstance(h := self._at(t, HEADS), int)), None)
        if heads is None or not self.index.is_float(new):
            return None
        return Side(new, heads, uncut(self.index, new)[1], past, present), nodes

    def _adds_tokens(self, node: onnx.NodeProto) -> bool:
        behind = is_one(node, "Concat") and attributes_of(node).get("axis") in (TOKENS, TOKENS - 4)
        return behind and len(node.input) == 2 and len(dims_of(self.index, node.output[0]) or ()) == 4

    def _unrepeated(self, tensor: str) -> tuple[str, tuple[onnx.NodeProto, ...]]:
        """A tensor without the repetition of its heads, and the nodes that repeat them: [batch, heads, 1, tokens, size]
        is expanded along the third axis and made [batch, heads x times, tokens, size]."""
        reshape = self.index.producer.get(tensor)
        expand = self.index.producer.get(reshape.input[0]) if reshape and is_one(reshape, "Reshape") else None
        unsqueeze = self.index.producer.get(expand.input[0]) if expand and is_one(expand, "Expand") else None
        if reshape is None or expand is None or unsqueeze is None or not is_one(unsqueeze, "Unsqueeze"):
            return tensor, ()
        axes, inner = self.index.constants.get(unsqueeze.input[1]), unsqueeze.input[0]
        before, after = dims_of(self.index, inner), dims_of(self.index, tensor)
        wide = dims_of(self.index, expand.output[0])
        fits = before is not None and after is not None and len(before) == len(after) == 4
        if not fits or axes is None or array_of(axes).tolist() != [TOKENS] or (wide is not None and len(wide) != 5):
            return tensor, ()
        return inner, (reshape, expand, unsqueeze)

    def _joined(self, product: onnx.NodeProto) -> tuple[str, tuple[onnx.NodeProto, ...]]:
        """The product's result by tokens, and the nodes that make it; "" where nothing does or something else reads
        it."""
        transpose = self.index.only_reader(product.output[0])
        by_tokens = transpose is not None and is_one(transpose, "Transpose") and _order(transpose) == _TO_HEADS
        reshape = self.index.only_reader(transpose.output[0]) if transpose is not None and by_tokens else None
        if transpose is None or reshape is None or not is_one(reshape, "Reshape"):
            return "", ()
        cut, whole = transpose.output[0], reshape.output[0]
        joins = reshape.input[0] == cut and _cuts(self.index, whole, cut, reshape)
        return (whole, (transpose, reshape)) if joins else ("", ())

    def _scaled(self, tensor: str, reader: onnx.NodeProto) -> _Product:
        """The tensor from which scalars make a tensor, by nodes whose results nothing else reads."""
        found = _Product(tensor)
        while (node := self._only(found.tensor, reader, "Mul", "Div")) is not None:
            slot = next((s for s, t in enumerate(node.input) if self._is_scalar(t)), None)
            value = None if slot is None else self.index.scalar(node.input[slot])
            if slot is None or (node.op_type == "Div" and (slot == 0 or not value)):
                break
            factor, scalar = (1.0, (node.input[slot],)) if value is None else (value, ())
            found = _Product(
                node.input[1 - slot],
                (*found.nodes, node),
                found.scale / factor if node.op_type == "Div" else found.scale * factor,
                (*found.factors, *scalar),
            )
            reader = node
        return found

    def _is_scalar(self, tensor: str) -> bool:
        dims = dims_of(self.index, tensor)
        return dims is not None and len(dims) <= 1 and all(d == 1 for d in dims)

    def _is_mask(self, tensor: str) -> bool:
        """True for float32 of two axes or more, the last of which is not known to be repeated."""
        dims = dims_of(self.index, tensor)
        constant = self.index.constants.get(tensor)
        is_float = self.index.is_float(tensor) if constant is None else constant.data_type == onnx.TensorProto.FLOAT
        return is_float and dims is not None and 2 <= len(dims) <= 4 and dims[-1] != 1

    def _needs(self, tensors: list[str], of: list[str]) -> bool:
        """True if one of the first tensors is computed from one of the others."""
        waiting, seen = [t for t in tensors if t], set[str]()
        while waiting:
            tensor = waiting.pop()
            if tensor in of:
                return True
            if tensor not in seen:
                seen.add(tensor)
                if (node := self.index.producer.get(tensor)) is not None:
                    waiting += [t for t in read_by(node) if t]
        return False

    def _one_for_all(self, queries: str, *sides: Side) -> bool:
        """True if all samples share keys or values, which a product repeats and the operator does not."""
        batch = self._at(queries, 0)
        many = batch != 1 if isinstance(batch, int) else bool(batch) and not str(batch).startswith(_INFERRED)
        return many and any(self._at(t, 0) == 1 for side in sides for t in (side.tensor, side.past) if t)

    def _only(self, tensor: str, reader: onnx.NodeProto, *operators: str) -> onnx.NodeProto | None:
        """The node of one of these operators that makes a tensor for this reader alone."""
        node = self.index.producer.get(tensor)
        alone = node is not None and is_one(node, *operators) and self.index.only_reader(tensor) is reader
        return node if alone else None

    def _at(self, tensor: str, axis: int) -> Dim:
        dims = dims_of(self.index, tensor)
        return dims[axis] if dims is not None and len(dims) == 4 else None


def _whole(side: Side) -> Side:
    """The side with its cache as computed before, if there is one."""
    return Side(side.present, side.heads) if side.past else side


def is_one(node: onnx.NodeProto, *operators: str) -> bool:
    """True for a node of one of these operators of ONNX."""
    return node.op_type in operators and node.domain in _STANDARD


def _order(transpose: onnx.NodeProto) -> list[int]:
    return list(attributes_of(transpose).get("perm", ()))


def _may_be_equal(one: Dim, other: Dim) -> bool:
    return one == other or not (isinstance(one, int) and isinstance(other, int))
