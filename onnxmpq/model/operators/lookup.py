"""Gather of rows from a table, as in embeddings."""

from __future__ import annotations

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.types import LayerOperator, attributes_of, constant_weight

_TABLE = 0


class Lookup(LayerOperator):
    """Gather of rows from a constant table [rows, width]: a layer that only stores."""

    looks_up = True

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        shape = constant_weight(node, _TABLE, index)
        weight = self.view(node, _TABLE, shape) if shape is not None else None
        return None if weight is None else Layer((weight,), storage_only=True)

    def view(self, node: onnx.NodeProto, slot: int, shape: tuple[int, ...]) -> LayerWeight | None:
        rows = slot == _TABLE and len(shape) == 2 and attributes_of(node).get("axis", 0) == 0
        return LayerWeight(node.name, node.input[slot], slot, shape) if rows else None

    def work(self, layer: Layer) -> int:
        return 0
