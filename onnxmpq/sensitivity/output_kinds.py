"""Kinds of outputs: how each is told from the graph, and how its values compare. A kind is a row of `OUTPUT_KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.model import OPERATORS, GraphIndex

OutputKind = Literal["logits", "probabilities", "values", "random", "cache"]
Scores = NDArray[np.floating[Any]]

SMALLEST_PROBABILITY = 1e-9
"""Probabilities below are taken for this one: their logarithms are mostly rounding."""
_TRANSPARENT = frozenset(
    {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Add", "Transpose", "Slice", "Gather"}
    | {"GlobalAveragePool", "AveragePool", "ReduceMean", "Relu", "Cast"}
)


@dataclass(frozen=True)
class Comparison:
    """The way in which outputs of a kind are compared.

    scores: values [..., classes] as class scores, whose softmax are the probabilities: these outputs compare by KL
    divergence over the last axis. None: by mean squared error relative to each channel's variance.
    recognized: tells the kind from the graph, the output's name and its values for one sample, which have two axes or
    more, the last of more than one. The first row that recognizes an output has it.
    deliberate: False for outputs that are not judged, and that no user can ask for: "random" ones, whose values are not
    meant to be the same in two runs and are compared only where there is nothing else, and the "cache" of a decoder,
    which is judged by the logits of later tokens.
    """

    scores: Callable[[Scores], Scores] | None = None
    recognized: Callable[[onnx.ModelProto, str, NDArray[np.float32]], bool] = lambda *_: False
    deliberate: bool = True


def guess_kind(proto: onnx.ModelProto, output: str, sample: NDArray[np.float32]) -> OutputKind:
    """The kind of an output, from the graph behind it and one run: probabilities, logits, or plain values."""
    last = sample.shape[-1] if sample.ndim else 1
    if sample.ndim < 2 or last < 2 or not sample.size or not np.isfinite(sample).all():
        return "values"
    return next((kind for kind, row in OUTPUT_KINDS.items() if row.recognized(proto, output, sample)), "values")


def with_caches(caches: Iterable[str], given: Mapping[str, OutputKind] | None) -> dict[str, OutputKind]:
    """Kinds that are given, and that of outputs which hold a cache where none is."""
    return {**dict.fromkeys(sorted(caches), "cache"), **(given or {})}


def class_scores(kind: OutputKind, values: Scores) -> Scores:
    """Values [..., classes] of a kind that has classes, as scores whose softmax are the probabilities."""
    scores = OUTPUT_KINDS[kind].scores
    if scores is None:
        raise ValueError(f"{kind} have no classes")
    return scores(values)


def kl_divergence(before: Scores, after: Scores) -> NDArray[np.float64]:
    """KL divergence in nats of softmax(after) from softmax(before) over the last axis: [..., classes] -> [...]."""
    log_p, log_q = _log_softmax(before), _log_softmax(after)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=-1))


def softmax(scores: Scores) -> NDArray[np.float64]:
    """float64 [..., classes]: probabilities over the last axis."""
    return np.exp(_log_softmax(scores.astype(np.float64)))


def _log_softmax(scores: Scores) -> NDArray[np.float64]:
    """Over the last axis."""
    shifted: Scores = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _are_probabilities(proto: onnx.ModelProto, output: str, sample: NDArray[np.float32]) -> bool:
    return bool(sample.min() >= 0 and np.allclose(sample.sum(axis=-1), 1.0, atol=1e-3))


def _are_logits(proto: onnx.ModelProto, output: str, sample: NDArray[np.float32]) -> bool:
    head = _head(GraphIndex(proto), output)
    tokens = any(i.type.tensor_type.elem_type == onnx.TensorProto.INT64 for i in proto.graph.input)
    flat = int(np.prod(sample.shape[1:-1])) == 1
    return head in OPERATORS and OPERATORS[head].may_make_logits and (flat or (sample.ndim == 3 and tokens))


def _head(index: GraphIndex, tensor: str) -> str:
    """Operator that makes a tensor, looking through nodes that only move, pool or shift values."""
    node = index.producer.get(tensor)
    while node is not None and node.op_type in _TRANSPARENT:
        computed = [t for t in node.input if t in index.producer]
        node = index.producer[computed[0]] if computed else None
    return node.op_type if node is not None else ""


OUTPUT_KINDS: Mapping[OutputKind, Comparison] = {
    "probabilities": Comparison(lambda p: np.log(np.maximum(p, SMALLEST_PROBABILITY)), _are_probabilities),
    "logits": Comparison(lambda scores: scores, _are_logits),
    "values": Comparison(),
    "random": Comparison(deliberate=False),
    "cache": Comparison(deliberate=False),
}
KINDS: tuple[OutputKind, ...] = tuple(kind for kind, row in OUTPUT_KINDS.items() if row.deliberate)
"""That a user can ask for."""
