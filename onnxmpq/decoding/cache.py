"""The cache of a decoder, found in its graph: pairs of an input and the output that replaces it in the next step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from onnxmpq.feeds import InputSpec
from onnxmpq.model import GraphIndex, table_rows

_PAST = re.compile(r"^past(?:_key_values?|_kv)?(?=[._\d]|$)", re.IGNORECASE)
_PRESENT = re.compile(r"^present(?:_key_values?|_kv)?(?=[._\d]|$)", re.IGNORECASE)
_CROSS = re.compile(r"(?:^|[._])(?:encoder|cross)(?=[._\d]|$)", re.IGNORECASE)
_SLOTS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "GroupQueryAttention": ((3, 1), (4, 2)),
    "MultiHeadAttention": ((6, 1), (7, 2)),
    "DecoderMaskedMultiHeadAttention": ((5, 1), (6, 2)),
    "Attention": ((4, 1), (5, 2)),
}
"""Places of caches among inputs and outputs: com.microsoft's operators, and ONNX's Attention from opset 23 on."""
_UPDATES = frozenset({"ScatterElements", "ScatterND", "TensorScatter"})
_MOVES = frozenset({"Identity", "Cast", "Transpose", "Reshape"})
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class CachePair:
    """past: input that holds what earlier steps left. present: output that is `past` of the next step."""

    past: str
    present: str


@dataclass(frozen=True)
class Decoder:
    """A model that is run step by step.

    ids: input of token ids. mask, positions: inputs of the attention mask and of positions, where there are such.
    others: outputs that hold no cache, such as logits.
    fixed: inputs that are called as a cache and that no output replaces, such as keys and values of an encoder's
        output, which all steps read.
    """

    pairs: tuple[CachePair, ...]
    ids: str
    mask: str | None
    positions: tuple[str, ...]
    others: tuple[str, ...]
    fixed: tuple[str, ...] = ()

    @property
    def past(self) -> dict[str, str]:
        """Input -> output."""
        return {pair.past: pair.present for pair in self.pairs}

    def in_words(self) -> str:
        """Its inputs: such as "decoder with a key/value cache of 6 inputs ('past_0', ...), token ids in 'ids'"."""
        more = ", ..." if len(self.pairs) > 1 else ""
        caches = f"a key/value cache of {len(self.pairs)} inputs ('{self.pairs[0].past}'{more})"
        return f"decoder with {caches}, token ids in '{self.ids}'; see docs/decoders"

    @property
    def present(self) -> frozenset[str]:
        return frozenset(pair.present for pair in self.pairs)

    @property
    def tensors(self) -> frozenset[str]:
        """Inputs and outputs that hold the cache."""
        return frozenset((*self.past, *self.fixed)) | self.present

    @property
    def crossed(self) -> tuple[str, ...]:
        """Cache inputs that hold keys and values of an encoder's output, which token ids do not tell."""
        return (*self.fixed, *(p.past for p in self.pairs if _CROSS.search(p.past)))


def find_decoder(proto: onnx.ModelProto) -> Decoder | None:
    """The decoder that a graph is; None for a model without a cache, or without token ids. Values are not read."""
    constants = {t.name for t in proto.graph.initializer}
    inputs = {i.name: i for i in proto.graph.input if i.name not in constants}
    outputs = {o.name: o for o in proto.graph.output}
    pairs = dict(_by_name(inputs, outputs))
    rest = {n: i for n, i in inputs.items() if n not in pairs and _type(i) in _FLOATS}
    told = (
        pairs or _ids(proto, inputs, sure=True) is not None
    )  # any model may have a Concat with an input as its output
    if rest and told and len(pairs) < len(outputs):  # else the graph has nothing to add
        pairs |= dict(_by_graph(proto, rest, {n: o for n, o in outputs.items() if n not in pairs.values()}))
    ids = _ids(proto, inputs)
    if not pairs or ids is None:
        return None
    mask = next((n for n in inputs if "mask" in n.casefold() and _axes(inputs[n]) == 2), None)
    positions = tuple(n for n in inputs if "position" in n.casefold() and _type(inputs[n]) in _INTEGERS)
    ordered = tuple(CachePair(name, pairs[name]) for name in inputs if name in pairs)
    fixed = tuple(n for n in inputs if n not in pairs and _PAST.match(n) and _type(inputs[n]) in _FLOATS)
    return Decoder(ordered, ids, mask, positions, tuple(n for n in outputs if n not in pairs.values()), fixed)


def grows(spec: InputSpec) -> int | None:
    """The axis of a cache that has an entry for each earlier token; None for a state of one size.

    Raises ValueError where it cannot be told.
    """
    dynamic = [a for a, size in enumerate(spec.shape) if not isinstance(size, int) and a != _batch(spec)]
    named = [a for a in dynamic if re.search(r"past|seq|len|kv|total", str(spec.shape[a] or ""), re.IGNORECASE)]
    found = named if len(named) == 1 else dynamic
    if len(found) > 1:
        raise ValueError(spec.name)
    return found[0] if found else None


def _batch(spec: InputSpec) -> int:
    return next((a for a in range(len(spec.shape)) if spec.named_batch(a)), spec.batch_axis)


Values = Mapping[str, onnx.ValueInfoProto]


def _by_name(inputs: Values, outputs: Values) -> Iterator[tuple[str, str]]:
    """`past_key_values.0.key` and `present.0.key`, `past_0` and `present_0`, and their like."""
    rest = {_PRESENT.sub("", name): name for name in outputs if _PRESENT.match(name)}
    for name in inputs:
        present = rest.get(_PAST.sub("", name)) if _PAST.match(name) else None
        if present is not None and _alike(inputs[name], outputs[present]):
            yield name, present


def _by_graph(proto: onnx.ModelProto, inputs: Values, outputs: Values) -> Iterator[tuple[str, str]]:
    """An output that is an input with something behind it, or written into it, or what an attention operator makes of
    it."""
    index = GraphIndex(proto)
    for name in outputs:
        node, place = index.producer.get(name), name
        while node is not None and node.op_type in _MOVES:
            place, node = node.input[0], index.producer.get(node.input[0])
        if node is None:
            continue
        for given, made in _SLOTS.get(node.op_type, ()):
            if list(node.output)[made : made + 1] == [place]:
                yield from _paired(index, inputs, outputs, list(node.input)[given : given + 1], name)
        if node.op_type in ("Concat", *_UPDATES):
            yield from _paired(index, inputs, outputs, list(node.input)[:1], name)


def _paired(
    index: GraphIndex, inputs: Values, outputs: Values, tensors: list[str], output: str
) -> Iterator[tuple[str, str]]:
    """The input that a tensor is, perhaps moved, with the output."""
    for tensor in tensors:
        while (node := index.producer.get(tensor)) is not None and node.op_type in _MOVES:
            tensor = node.input[0]
        if tensor in inputs and _alike(inputs[tensor], outputs[output]):
            yield tensor, output


def _ids(proto: onnx.ModelProto, inputs: Values, *, sure: bool = False) -> str | None:
    """Token ids: `input_ids`, or the only integers of two axes that are looked up in a table, or that there are at all
    where it need not be `sure`."""
    found = [
        n
        for n in inputs
        if _type(inputs[n]) in _INTEGERS and _axes(inputs[n]) == 2 and not re.search("mask|position|type", n, re.I)
    ]
    if "input_ids" in found:
        return "input_ids"
    looked_up = [n for n in found if n in table_rows(proto)]
    chosen = looked_up if looked_up or sure else found
    return chosen[0] if len(chosen) == 1 else None


def _alike(one: onnx.ValueInfoProto, two: onnx.ValueInfoProto) -> bool:
    """True if an output can be an input of the next step, as far as declared."""
    unknown = not two.type.tensor_type.HasField("shape")
    return _type(one) == _type(two) and (unknown or _axes(one) == _axes(two))


def _type(info: onnx.ValueInfoProto) -> int:
    return info.type.tensor_type.elem_type


def _axes(info: onnx.ValueInfoProto) -> int:
    return len(info.type.tensor_type.shape.dim)
