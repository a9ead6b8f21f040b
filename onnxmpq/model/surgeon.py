"""From a structure to onnx-graphsurgeon, and back. Constants are read where their values are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.model.store import WeightStore, array_of
from onnxmpq.model.tidy import bodies, defined_in, subgraphs

_NO_VALUES = np.empty(0, np.float32)


class _Stored(gs.ir.tensor.LazyValues):  # type: ignore[misc]
    """Values of a constant that the structure only describes. Written, it is the description again."""

    def __init__(self, constant: gs.Constant, store: WeightStore) -> None:
        self.tensor, self._store = store.structure.graph.initializer[store.place(constant.name)], store
        self.shape, self.dtype = constant.shape, constant.dtype

    def load(self) -> NDArray[np.generic]:
        return self._store.array(self.tensor.name).copy()


class Referred(gs.ir.tensor.LazyValues):  # type: ignore[misc]
    """Values of a constant by reference (`model/spill.py`)."""

    def load(self) -> NDArray[np.generic]:
        return array_of(self.tensor).copy()


def imported(store: WeightStore) -> gs.Graph:
    """The graph. `described_again` before `export` keeps large constants in the store, however they were looked at."""
    graph = gs.import_onnx(store.structure)
    domains = onnx.ModelProto(opset_import=store.structure.opset_import)
    graph.import_domains = domains.opset_import  # a copy: `export_onnx` adds the domains of new nodes to it
    described_again(graph, store)
    return graph


def described_again(graph: gs.Graph, store: WeightStore) -> None:
    """Let go of values of the store's large constants, which nobody changes under their names."""
    for constant in {id(c): c for c in constants_of(graph) if c.name in store.large}.values():
        constant.values = _Stored(constant, store)
        constant.data_location = None


def read_values(constants: Iterable[gs.Constant]) -> None:
    """Take values out of the store; `described_again` lets go of them."""
    for constant in constants:
        if isinstance(constant._values, _Stored):
            constant.values = constant._values.load()


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
