"""Inputs, outputs and metadata of a written model: those of its source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import TensorProto

from onnxmpq.lint import Hit, label, type_name

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
Ends = Sequence[onnx.ValueInfoProto]


def inputs(proto: onnx.ModelProto, source: onnx.ModelProto, keep_io: bool) -> Iterator[Hit]:
    """Inputs have the names, order, types, shapes and descriptions of the source's. Those with an initializer are
    constants here, and not compared."""
    readers = {t: label(n) for n in reversed(proto.graph.node) for t in n.input}
    yield from _compared("input", _given(proto), _given(source), readers, keep_io)


def outputs(proto: onnx.ModelProto, source: onnx.ModelProto, keep_io: bool) -> Iterator[Hit]:
    """Outputs have the names, order, types, shapes and descriptions of the source's."""
    makers = {t: label(n) for n in proto.graph.node for t in n.output}
    yield from _compared("output", proto.graph.output, source.graph.output, makers, keep_io)


def metadata(proto: onnx.ModelProto, source: onnx.ModelProto) -> Iterator[Hit]:
    """The model keeps its description, domain, version and metadata."""
    for field in ("doc_string", "domain", "model_version"):
        before, after = getattr(source, field), getattr(proto, field)
        if before != after:
            yield "", f"{field} of the model was {before!r} and is {after!r}"
    for what, old, new in (
        ("model", source.metadata_props, proto.metadata_props),
        ("graph", source.graph.metadata_props, proto.graph.metadata_props),
    ):
        kept = {p.key: p.value for p in new}
        for entry in old:
            if kept.get(entry.key) != entry.value:
                yield "", f"metadata {entry.key!r} of the {what} is lost or changed"


def _given(proto: onnx.ModelProto) -> Ends:
    constants = {t.name for t in proto.graph.initializer}
    return [i for i in proto.graph.input if i.name not in constants]


def _compared(what: str, after: Ends, before: Ends, nodes: dict[str, str], keep_io: bool) -> Iterator[Hit]:
    if [e.name for e in after] != [e.name for e in before]:
        moved = next((a.name for a, b in zip(after, before, strict=False) if a.name != b.name), "")
        names = [e.name for e in before], [e.name for e in after]
        yield nodes.get(moved, ""), f"{what}s were {', '.join(names[0])} and are {', '.join(names[1])}"
        return
    for new, old in zip(after, before, strict=True):
        for text in _differences(new, old, keep_io):
            yield nodes.get(new.name, ""), f"{what} {new.name!r}: {text}"


def _differences(new: onnx.ValueInfoProto, old: onnx.ValueInfoProto, keep_io: bool) -> Iterator[str]:
    if new.doc_string != old.doc_string:
        yield f"description was {old.doc_string!r} and is {new.doc_string!r}"
    if new.type.WhichOneof("value") != old.type.WhichOneof("value"):
        yield f"was a {old.type.WhichOneof('value')} and is a {new.type.WhichOneof('value')}"
        return
    if not new.type.HasField("tensor_type"):
        if new.type != old.type:
            yield "the type of its elements has changed"
        return
    now, was = new.type.tensor_type, old.type.tensor_type
    narrowed = not keep_io and was.elem_type == TensorProto.FLOAT and now.elem_type in _HALVES
    if now.elem_type != was.elem_type and not narrowed:
        yield f"was {type_name(was.elem_type)} and is {type_name(now.elem_type)}"
    if now.HasField("shape") != was.HasField("shape") or _axes(now) != _axes(was):
        yield f"shape was {_axes(was)} and is {_axes(now)}"


def _axes(tensor: onnx.TypeProto.Tensor) -> list[int | str | None]:
    """Sizes, or names of dynamic axes; None for an axis of neither."""
    return [
        d.dim_value if d.HasField("dim_value") else d.dim_param if d.HasField("dim_param") else None
        for d in tensor.shape.dim
    ]
