"""Weights of layers in bodies of If, Loop and Scan, handed to them by the graph around, so that each is a decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, helper

from onnxmpq.model.operators import BODY_WEIGHT
from onnxmpq.model.store import without_initializers
from onnxmpq.model.tidy import bodies, defined_in, free_name, reads_inside, refill, subgraphs

Shape = tuple[int, ...]
Reads = dict[str, list[tuple[onnx.NodeProto, int]]]  # by tensor: nodes in bodies, and the input that reads it


def hoist(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, tuple[str, ...]]]:
    """A tidy graph in which an Identity in front of If, Loop and Scan hands them each weight of the layers in their
    bodies, nested ones too. Weights that were stored in a body become initializers of the graph.

    Weights: float32 initializers of any graph and Constant nodes of bodies, where a layer operator has a matrix view of
    them. Returns the graph, and for each such Identity the names of the nodes in bodies that read it. It is a new
    graph, or `proto` itself where there is none. `sink` undoes it.
    """
    reads: Reads = {}
    for holder in proto.graph.node:
        for reader, slot in reads_inside(holder):
            reads.setdefault(reader.input[slot], []).append((reader, slot))
    weights = _weights(proto.graph, reads)
    if not weights:
        return proto, {}
    changed = without_initializers(proto)
    changed.graph.initializer.extend(proto.graph.initializer)
    for body in _bodies(changed.graph):
        changed.graph.initializer.extend(_taken_out(body, weights))
    taken = {t for g in subgraphs(changed.graph) for t in (*defined_in(g), *(n.name for n in g.node))}
    views, origin = dict[str, str](), dict[str, tuple[str, ...]]()
    for name in weights:
        readers = tuple(dict.fromkeys(node.name for node, _ in reads[name]))
        views[name] = free_name(f"{readers[0]}/weight", taken)
        origin[views[name]] = readers
    _hand_over(changed.graph, views)
    return changed, origin


def _weights(graph: onnx.GraphProto, reads: Reads) -> dict[str, Shape]:
    """Constants that are weights of layers in bodies, in the order in which these read them -> shape."""
    known: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    handed_out = set[str]()
    for body in _bodies(graph):
        known |= {name: tuple(tensor.dims) for name, tensor in _stored(body)}
        handed_out.update(o.name for o in body.output)
    return {
        name: known[name]
        for name, readers in reads.items()
        if name in known and name not in handed_out and BODY_WEIGHT.view_inside(readers, known[name]) is not None
    }


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Bodies of the graph's nodes, nested ones too, outer ones first."""
    return (inner for node in graph.node for body in bodies(node) for inner in subgraphs(body))


def _stored(body: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """float32 constants that a body holds, with the names under which nodes read them."""
    yield from ((t.name, t) for t in body.initializer if t.data_type == TensorProto.FLOAT)
    for node in body.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            found = (a.t for a in node.attribute if a.name == "value" and a.t.data_type == TensorProto.FLOAT)
            yield from ((node.output[0], t) for t in found)


def _taken_out(body: onnx.GraphProto, weights: Mapping[str, Shape]) -> list[TensorProto]:
    """The constants with these names that the body holds; it does not hold them any more."""
    found = list[TensorProto]()
    for name, tensor in _stored(body):
        if name in weights:
            found.append(TensorProto())
            found[-1].CopyFrom(tensor)
            found[-1].name = name
    gone = {t.name for t in found}
    if gone:
        refill(body.initializer, [t for t in body.initializer if t.name not in gone])
        refill(body.node, [n for n in body.node if gone.isdisjoint(n.output)])
        refill(body.value_info, [i for i in body.value_info if i.name not in gone])
    return found


def _hand_over(graph: onnx.GraphProto, views: Mapping[str, str]) -> None:
    """Let bodies read the views, each made in front of the first node that needs it."""
    made, nodes = set[str](), list[onnx.NodeProto]()
    for node in graph.node:
        for reader, slot in reads_inside(node):
            name = reader.input[slot]
            if name in views:
                reader.input[slot] = views[name]
                if name not in made:
                    made.add(name)
                    nodes.append(helper.make_node("Identity", [name], [views[name]], views[name]))
        nodes.append(node)
    refill(graph.node, nodes)
