"""Marks: each node of a region says which scheme the region has, so that viewers such as Netron show it.

A mark is an entry `onnxmpq: SCHEME` of the node's metadata, which files have from IR version 10 on, and a line of its
description in older ones. Nodes of float32 regions, and those that a dialect adds, have none. Runtimes ignore both.
Source: onnx.proto, `NodeProto.metadata_props`.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxmpq.model import Region, subgraphs
from onnxmpq.schemes import MARK, Scheme

FIRST_IR_WITH_METADATA = 10


def mark(proto: onnx.ModelProto, chosen: Iterable[tuple[Region, Scheme]]) -> None:
    """Mark the nodes of these regions that the graph still has; changes the proto."""
    schemes = {node: scheme.name for region, scheme in chosen for node in region.nodes}
    for node in (n for graph in subgraphs(proto.graph) for n in graph.node if n.name in schemes):
        if proto.ir_version >= FIRST_IR_WITH_METADATA:
            node.metadata_props.add(key=MARK, value=schemes[node.name])
        else:
            line = f"{MARK}: {schemes[node.name]}"
            node.doc_string = f"{node.doc_string}\n{line}" if node.doc_string else line


def marked(proto: onnx.ModelProto) -> dict[str, str]:
    """Node -> scheme, of all nodes with a mark."""
    found: dict[str, str] = {}
    for node in (n for graph in subgraphs(proto.graph) for n in graph.node):
        last = node.doc_string.rsplit("\n", 1)[-1]
        if last.startswith(f"{MARK}: "):
            found[node.name] = last.removeprefix(f"{MARK}: ")
        found.update((node.name, entry.value) for entry in node.metadata_props if entry.key == MARK)
    return found
