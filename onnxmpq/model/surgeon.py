"""From onnx-graphsurgeon back to a proto."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.model.tidy import bodies, defined_in, subgraphs

_NO_VALUES = np.empty(0, np.float32)


def export(graph: gs.Graph, source: onnx.ModelProto) -> onnx.ModelProto:
    """The changed graph, which was imported from `source`.

    Constants of the graph that bodies of nodes read are written once, in the graph; onnx-graphsurgeon writes a copy
    into each body.
    """
    proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    own = {t for inner in subgraphs(source.graph) if inner is not source.graph for t in defined_in(inner)}
    outside = {t.name for t in proto.graph.initializer}
    for node in proto.graph.node:
        for body in (inner for b in bodies(node) for inner in subgraphs(b)):
            strangers = [t for t in body.initializer if t.name not in own]
            if not strangers:
                continue
            kept = [t for t in body.initializer if t.name in own]
            proto.graph.initializer.extend(t for t in strangers if t.name not in outside)
            outside.update(t.name for t in strangers)
            del body.initializer[:]
            body.initializer.extend(kept)
    return proto


def constants_of(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Every constant that a node of the graph or of a body in it reads."""
    for node in graph.nodes:
        yield from (t for t in node.inputs if isinstance(t, gs.Constant))
        for body in node.subgraphs():
            yield from constants_of(body)


def drop_values(tensors: Iterable[gs.Tensor]) -> None:
    """End the use of constants. All that onnx-graphsurgeon makes refers to itself, so values would stay in memory until
    the garbage collector comes by, which does not know how large they are."""
    for tensor in tensors:
        if isinstance(tensor, gs.Constant):
            tensor.values = _NO_VALUES
