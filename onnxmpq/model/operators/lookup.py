"""Gather of rows from a table, as in embeddings."""

from __future__ import annotations

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.types import LayerOperator, attributes_of, constant_weight


class Lookup(LayerOperator):
    """Gather of rows from a constant table [rows, width]: a layer that only stores."""

    looks_up = True

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        shape = constant_weight(node, 0, index)
        if shape is None or len(shape) != 2 or attributes_of(node).get("axis", 0) != 0:
            return None
        return Layer((LayerWeight(node.name, node.input[0], 0, shape),), storage_only=True)

    def work(self, layer: Layer) -> int:
        return 0
