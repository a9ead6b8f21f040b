"""Load and prepare: an ONNX file becomes a `Model`, a folded graph cut into regions."""

from __future__ import annotations

import gc
from pathlib import Path

import onnx

from onnxmpq.errors import ModelError
from onnxmpq.model.batchnorm import ChannelStatistics, batchnorm_statistics
from onnxmpq.model.descriptions import keep_descriptions
from onnxmpq.model.fold import drop_values, fold
from onnxmpq.model.index import GraphIndex, read_by
from onnxmpq.model.layers import Layer, LayerWeight, Spelling
from onnxmpq.model.load import is_quantized_op, load, opset_of, read
from onnxmpq.model.lookups import table_rows
from onnxmpq.model.operators import OPERATORS, InputView, LayerOperator
from onnxmpq.model.regions import find_regions
from onnxmpq.model.shell import shell
from onnxmpq.model.store import WeightStore, serialized_bytes, without_initializers
from onnxmpq.model.types import Model, Region, RegionKind
from onnxmpq.model.work import multiply_accumulates

__all__ = [
    "OPERATORS",
    "WORTH_COLLECTING",
    "ChannelStatistics",
    "GraphIndex",
    "InputView",
    "Layer",
    "LayerOperator",
    "LayerWeight",
    "Model",
    "Region",
    "RegionKind",
    "Spelling",
    "WeightStore",
    "batchnorm_statistics",
    "drop_values",
    "find_regions",
    "fold",
    "is_quantized_op",
    "keep_descriptions",
    "load",
    "multiply_accumulates",
    "opset_of",
    "prepare",
    "read",
    "read_by",
    "serialized_bytes",
    "shell",
    "table_rows",
    "without_initializers",
]


WORTH_COLLECTING = 4 * 2**20  # bytes; collecting takes 20 to 200 ms


def prepare(source: str | Path | onnx.ModelProto, opset: int | None = None) -> Model:
    """Read a model and prepare it for planning. Raises ModelError; the source is never modified.

    opset: convert the graph to this version of ONNX, not only up to the first that has int4.
    """
    loaded = load(source, opset)
    quantized = tuple(n.name for n in loaded.proto.graph.node if is_quantized_op(n.op_type))
    notes = list(loaded.notes)
    try:
        proto, origin = fold(loaded.proto)
    except Exception as error:
        where = "the given model" if isinstance(source, onnx.ModelProto) else source
        raise ModelError(f"{where}: the graph cannot be folded ({error}); check it with onnx.checker") from error
    if loaded.size_bytes > WORTH_COLLECTING:
        gc.collect()  # copies that folding made refer to themselves and to all constants, as read and as folded
    if quantized:
        notes.append(f"already quantized: {len(quantized)} quantized nodes are left as they are")
    computed = {t for n in proto.graph.node for t in n.output}
    return Model(
        store=WeightStore.of(proto),
        regions=find_regions(proto, frozen=_touching_quantized(proto)),
        origin=origin,
        source_sha256=loaded.sha256,
        source_bytes=loaded.size_bytes,
        opset=opset_of(proto),
        prepared_bytes=serialized_bytes(proto),
        notes=tuple(notes),
        already_quantized=quantized,
        batchnorm={t: s for t, s in batchnorm_statistics(loaded.proto).items() if t in computed},
    )


def _touching_quantized(proto: onnx.ModelProto) -> list[str]:
    """Nodes that read from or feed quantized nodes: their precision is already decided."""
    quantized = {t for n in proto.graph.node if is_quantized_op(n.op_type) for t in (*n.input, *n.output)}
    return [n.name for n in proto.graph.node if quantized & {*n.input, *n.output}]
