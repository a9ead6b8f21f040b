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
    in the same graph as the node. Nodes that unfold a weight do not go into a Loop or Scan for other operators: a
    session without optimizations would run them in each iteration.
    """
    graph = proto.graph
    if not any(True for node in graph.node for _ in bodies(node)):
        return
    moves = _moves(graph)
    if not moves.handed:
        return
    for node in graph.node:
        for reader, slot in reads_inside(node):
            reader.input[slot] = moves.handed.get(reader.input[slot], reader.input[slot])
    given = {i.name for i in graph.input}
    constants: dict[Place, list[onnx.TensorProto]] = {}
    gone = list[int]()
    for number, tensor in enumerate(graph.initializer):
        place = _OUTERMOST if tensor.name in given else moves.constants.get(tensor.name, _OUTERMOST)
        if place != _OUTERMOST:
            constants.setdefault(place, []).append(tensor)
            gone.append(number)
    for place in sorted({*moves.nodes, *constants}, key=len, reverse=True):  # a change moves what is further inside
        body = _graph_at(graph, place)
        refill(body.node, [*reversed(moves.nodes.get(place, [])), *body.node])
        body.initializer.extend(constants.get(place, []))
    for number in reversed(gone):  # the others, which may be large, are not copied
        del graph.initializer[number]
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
    homes, homes_of_unfolded = _homes(graph)  # of all readers that have been seen so far
    stored = {t.name for t in graph.initializer}
    for node in reversed(graph.node):
        place = _common([homes[t] for t in node.output if t in homes])
        unfolds = constant.issuperset(node.output) and moves.constants.keys() >= {*node.output}
        if node.op_type == "Identity" and node.output[0] in constant and node.output[0] not in outside:
            moves.handed[node.output[0]] = node.input[0]
            place = place if node.input[0] in stored else homes_of_unfolded[node.output[0]]
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


def _homes(graph: onnx.GraphProto) -> tuple[dict[str, Place], dict[str, Place]]:
    """Tensor that bodies read -> the innermost graph in which all of these readers are; and the same for one that has
    to be unfolded, which is not in a Loop or Scan unless only convolutions read it there."""
    homes = {o.name: _OUTERMOST for o in graph.output}
    of_unfolded = dict(homes)

    def seen(tensor: str, place: Place, before_loops: Place) -> None:
        homes[tensor] = _common([homes.get(tensor, place), place])
        of_unfolded[tensor] = _common([of_unfolded.get(tensor, before_loops), before_loops])

    for place, before_loops, body in _bodies(graph, _OUTERMOST):
        for node in body.node:
            for tensor in node.input:
                seen(tensor, place, place if node.op_type == "Conv" else before_loops)
        for output in body.output:
            seen(output.name, place, before_loops)
    return homes, of_unfolded


def _bodies(
    graph: onnx.GraphProto, place: Place, before_loops: Place | None = None
) -> Iterator[tuple[Place, Place, onnx.GraphProto]]:
    """(place, the innermost place around it that runs once at most, graph). before_loops: of the graph itself, None
    where that is its place."""
    for number, node in enumerate(graph.node):
        for which, body in enumerate(bodies(node)):
            inner = (*place, (number, which))
            once = place if before_loops is None and node.op_type != "If" else before_loops
            yield inner, inner if once is None else once, body
            yield from _bodies(body, inner, once)


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
