"""Names that a compiler's messages are traced back by: each node gets one that occurs nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import onnx

from onnxmpq.compilers.types import Message
from onnxmpq.lint import label

_OWN = re.compile(r"onnxmpq_node_(\d+)_")


def renamed(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[int, str]]:
    """A copy whose nodes, those in bodies too, are called by number; and by number how the model's user knows them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known: dict[int, str] = {}
    for number, node in enumerate(_nodes(copy.graph)):
        known[number] = label(node)
        node.name = f"onnxmpq_node_{number}_"
    return copy, known


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(body)


def traced(message: Message, known: Mapping[int, str]) -> Message:
    """The message with the model's own names. Its node is the one it has, else the first that its text mentions."""
    named = _OWN.search(message.node) or _OWN.search(message.text)
    node = "" if named is None else known[int(named[1])]
    return Message(message.severity, node, _OWN.sub(lambda m: repr(known[int(m[1])]), message.text))
