"""Load and prepare: an ONNX file becomes a `Model`, a folded graph cut into regions."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection
from pathlib import Path

import onnx

from onnxmpq.errors import ModelError
from onnxmpq.model.batchnorm import ChannelStatistics, batchnorm_statistics
from onnxmpq.model.behind_labels import float_sources, sources_of
from onnxmpq.model.bounds import tensors
from onnxmpq.model.coupling import coupled_layers
from onnxmpq.model.descriptions import keep_descriptions
from onnxmpq.model.files import LENGTH, LOCATION, OFFSET, place_of, read_structure, set_place
from onnxmpq.model.index import GraphIndex, read_by
from onnxmpq.model.inside import in_words, weights_inside
from onnxmpq.model.layers import Layer, LayerWeight, Spelling
from onnxmpq.model.load import Loaded, hands_on_quantized, is_quantized_op, load, read
from onnxmpq.model.lookups import table_rows
from onnxmpq.model.operators import OPERATORS, InputView, LayerOperator
from onnxmpq.model.opset import opset_of
from onnxmpq.model.random import random_tensors
from onnxmpq.model.regions import find_regions
from onnxmpq.model.shell import LARGEST_KEPT, shell
from onnxmpq.model.sink import sink
from onnxmpq.model.sizes import file_bytes, model_files, source_bytes
from onnxmpq.model.spill import NEVER_WHOLE, Spill, content_of, is_reference, read_parts
from onnxmpq.model.steps import Draft, Step, none_of_them, require_opset, take_steps
from onnxmpq.model.store import (
    WeightStore,
    array_of,
    described,
    serialized_bytes,
    tensor_bytes,
    with_values,
    without_initializers,
)
from onnxmpq.model.surgeon import Referred, constants_of, described_again, drop_values, export, imported
from onnxmpq.model.tidy import free_name, subgraphs
from onnxmpq.model.types import SHARED_BYTES, Model, Region, RegionKind
from onnxmpq.model.unpack import blocked_nodes, stored_bytes
from onnxmpq.model.work import multiply_accumulates, work_in_bodies

__all__ = [
    "LARGEST_KEPT",
    "LENGTH",
    "LOCATION",
    "NEVER_WHOLE",
    "OFFSET",
    "OPERATORS",
    "SHARED_BYTES",
    "WORTH_COLLECTING",
    "ChannelStatistics",
    "GraphIndex",
    "InputView",
    "Layer",
    "LayerOperator",
    "LayerWeight",
    "Model",
    "Referred",
    "Region",
    "RegionKind",
    "Spelling",
    "Spill",
    "Step",
    "WeightStore",
    "array_of",
    "batchnorm_statistics",
    "constants_of",
    "content_of",
    "coupled_layers",
    "described",
    "described_again",
    "drop_values",
    "export",
    "file_bytes",
    "find_regions",
    "float_sources",
    "free_name",
    "imported",
    "is_quantized_op",
    "is_reference",
    "keep_descriptions",
    "load",
    "model_files",
    "multiply_accumulates",
    "opset_of",
    "place_of",
    "prepare",
    "random_tensors",
    "read",
    "read_by",
    "read_parts",
    "read_structure",
    "require_opset",
    "serialized_bytes",
    "set_place",
    "shell",
    "sink",
    "source_bytes",
    "sources_of",
    "subgraphs",
    "table_rows",
    "tensor_bytes",
    "tensors",
    "weights_inside",
    "with_values",
    "without_initializers",
    "work_in_bodies",
]


WORTH_COLLECTING = 4 * 2**20  # bytes; collecting takes 20 to 200 ms


def prepare(
    source: str | Path | onnx.ModelProto,
    opset: int | None = None,
    left_out: Collection[str] = (),
    added: Callable[[Step], bool] = none_of_them,
) -> Model:
    """Read a model and prepare it for planning. Raises ModelError; the source is never modified.

    opset: convert the graph to this version of ONNX, not only up to the first that has int4. left_out: steps that are
    not taken, such as a model's `left_out`. added: tells which
    optional steps are.
    """
    loaded, steps = load(source), tuple(Step(s) for s in left_out)
    unfolded, draft = take_steps(loaded, opset, steps, added)
    if loaded.size_bytes > WORTH_COLLECTING:
        gc.collect()  # copies that folding made refer to themselves and to all constants, as read and as folded
    try:
        return _model(loaded, unfolded, draft, steps)
    except Exception as error:
        if not loaded.doubt:
            raise
        raise ModelError(f"{loaded.where}: not a valid ONNX model ({loaded.doubt}); export it again") from error


def _model(loaded: Loaded, unfolded: Draft, draft: Draft, left_out: tuple[Step, ...]) -> Model:
    proto = draft.proto
    quantized = tuple(n.name for n in unfolded.proto.graph.node if is_quantized_op(n.op_type))
    others = tuple(step for step in left_out if step is not Step.UNPACK_BLOCKS)  # a wish, nothing was wrong with it
    notes = [*draft.notes, *(f"left out, since it changed an output: {step}" for step in others)]
    if loaded.doubt:
        notes.append(f"onnx.checker has a doubt about the model: {loaded.doubt}")
    blocked = blocked_nodes(proto)
    if len(quantized) > len(blocked):
        notes.append(f"already quantized: {len(quantized) - len(blocked)} quantized nodes are left as they are")
    if blocked:
        size = f"{stored_bytes(proto) / 1e6:.3g} MB"
        notes.append(f"already in blocks: {len(blocked)} layers of {size} are left as they are (--replan-blocks)")
    notes += in_words(proto)
    frozen = _touching_quantized(proto) if draft.writable else [n.name for n in proto.graph.node]
    if not draft.writable:
        notes.append("some type of value in the graph is not known to onnx-graphsurgeon: the graph is left as it is")
    computed = {t for n in proto.graph.node for t in n.output}
    return Model(
        store=draft.store,
        regions=find_regions(proto, frozen=frozen),
        origin=draft.origin,
        source_sha256=loaded.sha256,
        source_bytes=loaded.size_bytes,
        opset=opset_of(proto),
        prepared_bytes=serialized_bytes(draft.store),
        notes=tuple(notes),
        already_quantized=quantized,
        batchnorm={t: s for t, s in batchnorm_statistics(unfolded.store).items() if t in computed},
        left_out=left_out if blocked else others,
        from_halves=draft.from_halves,
        added=draft.added,
    )


def _touching_quantized(proto: onnx.ModelProto) -> list[str]:
    """Quantized nodes, and those that read from or feed their codes: their precision is already decided."""
    quantized = {t for n in proto.graph.node if hands_on_quantized(n.op_type) for t in (*n.input, *n.output)}
    return [n.name for n in proto.graph.node if is_quantized_op(n.op_type) or quantized & {*n.input, *n.output}]
