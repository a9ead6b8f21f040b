"""Weights that bodies of If, Loop and Scan read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.types import LayerOperator, constant_weight

_CONSTANT = 0


class BodyWeight(LayerOperator):
    """Identity of a constant that layers in bodies read (`model/hoist.py`): a layer that only stores.

    It stands in the graph around the bodies, so that the weight is a decision of its own, and its effect that of an
    input of the node that has the bodies. Written graphs hold the weight where it is read (`model/sink.py`).
    """

    looks_up = True

    def __init__(self, operators: Mapping[str, LayerOperator]) -> None:
        """operators: rows of the layers that bodies may hold."""
        self._operators = operators

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        shape, result = constant_weight(node, _CONSTANT, index), node.output[0]
        weight = None if shape is None else self.view_inside(index.inside.get(result, ()), shape)
        if weight is None or result in index.outputs:
            return None
        return Layer((replace(weight, key=node.name, tensor=node.input[0], slot=_CONSTANT),), storage_only=True)

    def view(self, node: onnx.NodeProto, slot: int, shape: tuple[int, ...]) -> LayerWeight | None:
        """None: the node does not say what reads the constant."""
        return None

    def view_inside(self, readers: Iterable[tuple[onnx.NodeProto, int]], shape: tuple[int, ...]) -> LayerWeight | None:
        """The view of the first layer among these nodes that reads a constant of this shape as its weight, at the input
        that comes with the node."""
        for node, slot in readers:
            row = self._operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            weight = row.view(node, slot, shape) if row is not None else None
            if weight is not None:
                return weight
        return None

    def work(self, layer: Layer) -> int:
        return 0
