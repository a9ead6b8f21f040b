"""A graph spelled as the rest of the package expects it; what it computes stays the same.

Nodes come after those whose results they read. Every node has a name of its own, subgraphs included; no name of an
inner value is used twice in the whole model; inputs and outputs that are left out at the end of a node's list are not
spelled; recorded shapes of computed tensors are gone, since exporters leave stale ones and runtimes do not trust them
either.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message

Item = TypeVar("Item", bound=Message)


def tidy(graph: onnx.GraphProto) -> None:
    """All of the below, subgraphs included. Changes the graph."""
    for inner in subgraphs(graph):
        for node in inner.node:
            _strip(node.input)
            _strip(node.output)
            _type_constants(node)
        del inner.quantization_annotation[:]
        drop_recorded_shapes(inner)
        sort_nodes(inner)
    unique_inner_values(graph)
    name_nodes(graph)


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and the bodies of its If, Loop and Scan nodes, nested ones too, outer ones first."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from subgraphs(body)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def defined_in(graph: onnx.GraphProto) -> list[str]:
    """Values that a graph itself defines: inputs, constants, results of its nodes."""
    return [
        *(i.name for i in graph.input),
        *(t.name for t in graph.initializer),
        *(t.values.name for t in graph.sparse_initializer),
        *(t for n in graph.node for t in n.output if t),
    ]


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Values of outer graphs that the bodies of a node read."""
    for body in bodies(node):
        own = set(defined_in(body))
        read = (t for inner in body.node for t in (*inner.input, *captured(inner)))
        yield from (t for t in (*read, *(o.name for o in body.output)) if t and t not in own)


def reads_inside(node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """(node, input) for each input that nodes in the bodies of a node read, nested ones too, outer ones first."""
    for body in bodies(node):
        for inner in subgraphs(body):
            for reader in inner.node:
                yield from ((reader, slot) for slot, tensor in enumerate(reader.input) if tensor)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put nodes behind those whose results they read, as ONNX asks and onnxruntime does not; else in their order.

    A graph with a cycle stays as it is.
    """
    reads = [{*node.input, *captured(node)} for node in graph.node]
    makers = {t: number for number, node in enumerate(graph.node) for t in node.output if t}
    before = [{makers[t] for t in names if t in makers} for names in reads]
    if all(max(needed, default=-1) < number for number, needed in enumerate(before)):
        return
    followers: dict[int, list[int]] = {}
    for number, needed in enumerate(before):
        for maker in needed:
            followers.setdefault(maker, []).append(number)
    left = [len(needed) for needed in before]
    ready, order = [number for number, count in enumerate(left) if not count], list[int]()
    heapq.heapify(ready)
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for follower in followers.get(number, ()):
            left[follower] -= 1
            if not left[follower]:
                heapq.heappush(ready, follower)
    if len(order) == len(graph.node):
        nodes = [graph.node[number] for number in order]
        refill(graph.node, nodes)


def refill(field: MutableSequence[Item], items: Sequence[Item]) -> None:
    """Let a repeated field hold copies of these items, some of which may be its own."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every unnamed node a name and make all names unique, keeping the first use of each, outer graphs first."""
    nodes = [n for inner in subgraphs(graph) for n in inner.node]
    taken, seen, names = {n.name for n in nodes if n.name}, set[str](), _FreeNames()
    for index, node in enumerate(nodes):
        if not node.name or node.name in seen:
            node.name = names.new(node.name or f"{node.op_type}_{index}", taken)
        seen.add(node.name)


def unique_inner_values(graph: onnx.GraphProto) -> None:
    """Rename values of bodies that have a name which the graph around them, or another body, also has.

    onnxruntime allows two branches of an If to use the same names; a graph in which one of them moved outwards, or
    nodes were copied, would not be valid any more.
    """
    taken, names = set(defined_in(graph)), _FreeNames()
    for node in graph.node:
        for body in bodies(node):
            _rename(body, {}, taken, names)


def free_name(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; it counts as taken from now on."""
    return _FreeNames().new(name, taken)


class _FreeNames:
    """Names with the lowest number that is free. Counting goes on where it ended, so many like names take no time."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def new(self, stem: str, taken: set[str]) -> str:
        """The stem, with a number unless it is free as it is; it counts as taken from now on."""
        name = stem
        while name in taken:
            number = self._next.get(stem, 1)
            self._next[stem], name = number + 1, f"{stem}_{number}"
        taken.add(name)
        return name


def _rename(graph: onnx.GraphProto, outer: Mapping[str, str], taken: set[str], names: _FreeNames) -> None:
    """outer: new names of values that the body may read."""
    own = {t: names.new(t, taken) for t in dict.fromkeys(defined_in(graph))}
    known = {**outer, **own}
    if any(old != new for old, new in known.items()):
        for described in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            described.name = known.get(described.name, described.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = known.get(sparse.values.name, sparse.values.name)
        for node in graph.node:
            node.input[:] = [known.get(t, t) for t in node.input]
            node.output[:] = [known.get(t, t) for t in node.output]
    for node in graph.node:
        for body in bodies(node):
            _rename(body, known, taken, names)


def drop_recorded_shapes(graph: onnx.GraphProto) -> None:
    """Of computed tensors. Their types stay: nothing else tells those behind an operator that ONNX does not know."""
    kept = [i for i in graph.value_info if i.type.tensor_type.elem_type]
    for info in kept:
        info.type.tensor_type.ClearField("shape")
    others = [i for i in graph.value_info if i.type.WhichOneof("value") not in (None, "tensor_type")]
    del graph.value_info[:]
    graph.value_info.extend([*kept, *others])


def _strip(names: MutableSequence[str]) -> None:
    while names and not names[-1]:
        del names[-1]


def _type_constants(node: onnx.NodeProto) -> None:
    """Spell Constant nodes given by `value_float(s)` as float32 tensors; onnx-graphsurgeon reads those as float64."""
    if node.op_type != "Constant":
        return
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats"):
            given = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = onnx.numpy_helper.from_array(np.array(given, np.float32))
            attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
