"""Attention written as ONNX's operator Attention, which a runtime computes in one kernel.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html (opset 23)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from onnxmpq.model.attention import TOKENS, Attention, Dim, dims_of, find_attentions
from onnxmpq.model.index import GraphIndex
from onnxmpq.model.replacing import Replacing
from onnxmpq.model.store import array_of

ATTENTION_OPSET = 23
_AXES = {"Slice": 3, "Unsqueeze": 1}
"""Input of an operator that names axes."""


def attentions(proto: onnx.ModelProto) -> list[Attention]:
    """Those of a tidy, folded graph that `fuse` writes as one node: those with a cache.

    In a step of a decoder an attention is many nodes that do little. Without a cache it is few nodes that do much, and
    one takes as long (docs/decoders.md).
    """
    weights = {t for n in proto.graph.node if n.op_type == "Softmax" for t in n.output}
    if not any(n.op_type == "MatMul" and n.input[0] in weights for n in proto.graph.node):
        return []
    found, grown = [], set[str]()
    for attention in find_attentions(GraphIndex(proto)):
        caches = {attention.keys.present, attention.values.present}
        whole = _all_by_tokens(attention) or _all_by_heads(attention)
        if attention.keys.past and whole and len(caches) == 2 and grown.isdisjoint(caches):
            grown |= caches  # a second attention on the same cache keeps its nodes, and reads what this one makes
            found.append(attention)
    return found


def fuse(proto: onnx.ModelProto, found: Iterable[Attention]) -> tuple[onnx.ModelProto, dict[str, tuple[str, ...]]]:
    """The graph, of `ATTENTION_OPSET` or later, with each of these attentions as one node, and for each new node the
    names of those that it stands for.

    Nodes whose results others read as well stay; those that nothing reads any more are gone.
    """
    writer = _Writer(proto)
    for attention in found:
        writer.write(attention)
    return writer.to.graph(), writer.to.made_for


def _all_by_tokens(attention: Attention) -> bool:
    return all((attention.by_tokens, attention.keys.by_tokens, attention.values.by_tokens, attention.joined))


def _all_by_heads(attention: Attention) -> bool:
    return all((attention.queries, attention.keys.tensor, attention.values.tensor))


def _length(index: GraphIndex, tensor: str, axis: int) -> Dim:
    """Length of an axis, counted from the end. Through Slices of other axes, for which onnx's inference forgets it."""
    while (node := index.producer.get(tensor)) is not None and node.op_type in ("Slice", "Unsqueeze"):
        dims, given = dims_of(index, node.output[0]), dims_of(index, node.input[0])
        axes = index.constants.get(node.input[_AXES[node.op_type]]) if len(node.input) > _AXES[node.op_type] else None
        if dims is None or given is None or axes is None:
            break
        touched = {int(a) % len(dims) - len(dims) for a in array_of(axes).reshape(-1)}
        if axis in touched:
            break
        if node.op_type == "Unsqueeze":
            axis += sum(a > axis for a in touched)
        tensor = node.input[0]
    dims = dims_of(index, tensor)
    return dims[axis] if dims is not None and len(dims) >= -axis else None


class _Writer:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.to = Replacing(proto)
        self.index = self.to.index
        self._masks: dict[tuple[str, object], str] = {}

    def write(self, attention: Attention) -> None:
        by_tokens, stem = _all_by_tokens(attention), attention.nodes[-1]
        keys, values = attention.keys, attention.values
        queries = attention.by_tokens if by_tokens else attention.queries
        mask = self._mask(attention, queries, by_tokens)
        for factor in attention.factors:
            queries = self.to.add("Mul", f"{stem}/scaled", [queries, factor], attention.nodes)
        inputs = [queries, *((s.by_tokens if by_tokens else s.tensor) for s in (keys, values))]
        inputs += [mask, keys.past, values.past]
        result = attention.joined if by_tokens else attention.result
        attributes: dict[str, Any] = {"scale": attention.scale}
        if by_tokens:
            attributes |= {"q_num_heads": attention.heads, "kv_num_heads": keys.heads}
        outputs = [result, keys.present, values.present]
        self.to.replace("Attention", f"{stem}/attention", inputs, outputs, attention.nodes, **attributes)

    def _mask(self, attention: Attention, queries: str, by_tokens: bool) -> str:
        """The mask with a row for each token of the queries: onnxruntime does not repeat a single one."""
        mask, at = attention.mask, TOKENS if not by_tokens else TOKENS - 1
        if not mask:
            return ""
        of_queries = dims_of(self.index, queries)
        tokens = of_queries[at] if of_queries is not None else None
        before = dims_of(self.index, attention.keys.past)  # of one length with the mask, so queries are too
        key = (mask, queries if before is None or before[TOKENS] is None else before[TOKENS])
        if tokens is not None and tokens == _length(self.index, mask, -2):
            self._masks[key] = mask
        if key not in self._masks:
            stem, parts = f"{mask}/rows", attention.nodes
            rows = self.to.add("Shape", f"{stem}/tokens", [queries], parts, start=at, end=at + 1)
            lengths = [self.to.constant(f"{stem}/before", [1, 1]), rows, self.to.constant(f"{stem}/behind", [1])]
            wide = self.to.add("Concat", f"{stem}/shape", lengths, parts, axis=0)
            self._masks[key] = self.to.add("Expand", stem, [mask, wide], parts)
        return self._masks[key]
