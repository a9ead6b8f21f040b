"""Descriptions, metadata and declared ends of a model, which the opset converter and onnx-graphsurgeon drop."""

from __future__ import annotations

from typing import Any

import onnx


def keep_descriptions(source: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    """Give `proto`, made from `source`, the source's producer, description, domain, version and metadata, and its ends
    (inputs and outputs) their declared shapes and descriptions. Changes `proto`."""
    if source is proto:
        return
    for field in ("producer_name", "producer_version", "doc_string", "domain", "model_version"):
        _copy_field(source, proto, field)
    _copy_field(source.graph, proto.graph, "doc_string")
    _copy_entries(source, proto)
    _copy_entries(source.graph, proto.graph)
    before = {i.name: i for i in (*source.graph.input, *source.graph.output)}
    for info in (*proto.graph.input, *proto.graph.output):
        old = before.get(info.name)
        if old is None:
            continue
        _copy_field(old, info, "doc_string")
        _copy_entries(old, info)
        if info.type.tensor_type.elem_type == old.type.tensor_type.elem_type:
            info.type.CopyFrom(old.type)


def _copy_field(source: Any, made: Any, field: str) -> None:
    """A field that is not set stays so: an empty one takes bytes."""
    if source.HasField(field):
        setattr(made, field, getattr(source, field))
    else:
        made.ClearField(field)


def _copy_entries(source: Any, made: Any) -> None:
    del made.metadata_props[:]
    made.metadata_props.extend(source.metadata_props)
