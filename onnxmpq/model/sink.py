"""Constants back into the bodies of If, Loop and Scan that read them: the inverse of `hoist`, for written graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from onnxmpq.model.random import draws
from onnxmpq.model.tidy import bodies, reads_inside, refill

Place = tuple[tuple[int, int], ...]
"""A graph: (node, body of the node) from the outermost graph on; () for that itself."""
_OUTERMOST: Place = ()


def sink(proto: onnx.ModelProto) -> None:
    """Take out each Identity that hands a constant to bodies, as `hoist` put it there, and move the constant, with the
    nodes that unfold it, into the innermost body in which all of its readers are. Changes the proto.

    onnxruntime folds constants in every graph, but blocks the weights of convolutions (NCHWc) only if they are stored
    in the same graph as the node.
    """
    graph = proto.graph
    moves = _moves(graph)
    if not moves.handed:
        return
    for node in graph.node:
        for reader, slot in reads_inside(node):
            reader.input[slot] = moves.handed.get(reader.input[slot], reader.input[slot])
    given = {i.name for i in graph.input}
    goes = {t.name: p for t in graph.initializer if t.name not in given and (p := moves.constants.get(t.name))}
    for place in sorted({*moves.nodes, *goes.values()}, key=len, reverse=True):  # a change moves what is further inside
        body = _graph_at(graph, place)
        refill(body.node, [*reversed(moves.nodes.get(place, [])), *body.node])
        body.initializer.extend(t for t in graph.initializer if goes.get(t.name) == place)
    refill(graph.initializer, [t for t in graph.initializer if t.name not in goes])
    refill(graph.node, moves.kept[::-1])


@dataclass
class _Moves:
    """handed: result of an Identity that is taken out -> the constant. nodes: that go into a body, last one first.
    constants: place of what these read, () to stay. kept: nodes that stay, last one first."""

    handed: dict[str, str] = field(default_factory=dict)
    nodes: dict[Place, list[onnx.NodeProto]] = field(default_factory=dict)
    constants: dict[str, Place] = field(default_factory=dict)
    kept: list[onnx.NodeProto] = field(default_factory=list)


def _moves(graph: onnx.GraphProto) -> _Moves:
    moves, constant = _Moves(), _constant(graph)
    outside = {t for n in graph.node for t in n.input} | {o.name for o in graph.output}
    homes = _homes(graph)  # of all readers that have been seen so far
    for node in reversed(graph.node):
        place = _common([homes[t] for t in node.output if t in homes])
        unfolds = constant.issuperset(node.output) and moves.constants.keys() >= {*node.output}
        if node.op_type == "Identity" and node.output[0] in constant and node.output[0] not in outside:
            moves.handed[node.output[0]] = node.input[0]
        elif unfolds and place != _OUTERMOST:
            moves.nodes.setdefault(place, []).append(node)
        else:
            moves.kept.append(node)
            place = _OUTERMOST
        for tensor in node.input:
            homes[tensor] = _common([homes.get(tensor, place), place])
            if unfolds or node.output[0] in moves.handed:
                moves.constants[tensor] = _OUTERMOST
    return _Moves(moves.handed, moves.nodes, {t: homes[t] for t in moves.constants}, moves.kept)


def _constant(graph: onnx.GraphProto) -> set[str]:
    """Initializers, and what is computed from them alone."""
    found = {t.name for t in graph.initializer}
    for node in graph.node:
        alone = node.input and found.issuperset(t for t in node.input if t)
        if alone and not draws(node.op_type, node.domain) and not any(bodies(node)):
            found.update(node.output)
    return found


def _homes(graph: onnx.GraphProto) -> dict[str, Place]:
    """Tensor that bodies read -> the innermost graph in which all of these readers are."""
    found: dict[str, Place] = {o.name: _OUTERMOST for o in graph.output}
    for place, body in _bodies(graph, _OUTERMOST):
        for tensor in (*(t for n in body.node for t in n.input), *(o.name for o in body.output)):
            found[tensor] = _common([found.get(tensor, place), place])
    return found


def _bodies(graph: onnx.GraphProto, place: Place) -> Iterator[tuple[Place, onnx.GraphProto]]:
    for number, node in enumerate(graph.node):
        for which, body in enumerate(bodies(node)):
            inner = (*place, (number, which))
            yield inner, body
            yield from _bodies(body, inner)


def _graph_at(graph: onnx.GraphProto, place: Place) -> onnx.GraphProto:
    for number, which in place:
        graph = list(bodies(graph.node[number]))[which]
    return graph


def _common(places: Sequence[Place]) -> Place:
    """The innermost graph around all of these; the outermost for none."""
    shared = []
    for steps in zip(*places, strict=False):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    return tuple(shared)
