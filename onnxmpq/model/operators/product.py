"""MatMul and Gemm."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.input_view import InputView
from onnxmpq.model.operators.types import Dimensions, LayerOperator, attributes_of, computes_floats, constant_weight

_LEFT, _RIGHT = 0, 1
_BIAS = 2


class _Product(LayerOperator):
    float_result = multiplies_blocks = may_make_logits = absorbs_activation = True

    def input_view(self, node: onnx.NodeProto, layer: Layer, weight: LayerWeight) -> InputView | None:
        return InputView(weight.fan_in)


class MatMul(_Product):
    """MatMul with a constant on the right, [K, N]; a constant on the left, a stack of matrices, or a vector [K] is only
    stored in fewer bits."""

    bias_follows = True

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        for slot in (_RIGHT, _LEFT):
            shape = constant_weight(node, slot, index)
            weight = self.view(node, slot, shape) if shape is not None else None
            if weight is not None and computes_floats(node, index, given=_LEFT + _RIGHT - slot):
                layer = Layer((weight,), storage_only=slot == _LEFT or len(weight.shape) != 2)
                return replace(layer, macs=self.sample_macs(layer, node, index))
        return None

    def view(self, node: onnx.NodeProto, slot: int, shape: tuple[int, ...]) -> LayerWeight | None:
        if not shape:
            return None
        matrices = slot == _RIGHT and len(shape) > 1
        return LayerWeight(node.name, node.input[slot], slot, shape, len(shape) - 1, swapped=matrices)

    def input_view(self, node: onnx.NodeProto, layer: Layer, weight: LayerWeight) -> InputView | None:
        """A matrix of a stack is multiplied with rows of its own, one on the left with columns."""
        several = math.prod(weight.shape[:-2]) > 1
        return None if several or weight.slot == _LEFT else InputView(weight.fan_in)

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        return (None, None) if made is None else made

    def work(self, layer: Layer) -> int:
        """For one element of the result."""
        return layer.fan_in


class Gemm(_Product):
    """Gemm with a constant B, [K, N] or with transB [N, K], and nothing but a bias per column beside the product.

    Preparing turns other forms into this one (`model/gemm.py`).
    """

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        shape = constant_weight(node, _RIGHT, index)
        weight = self.view(node, _RIGHT, shape) if shape is not None else None
        if weight is None or not computes_floats(node, index):
            return None
        attributes = attributes_of(node)
        if any(attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")) or attributes.get("transA", 0):
            return None
        bias = node.input[_BIAS] if len(node.input) > _BIAS and node.input[_BIAS] else None
        if bias is not None:
            if bias not in index.constants:
                return None
            if tuple(index.constants[bias].dims) != (weight.out_channels,):
                return None
        layer = Layer((weight,), bias, _BIAS)
        return replace(layer, macs=self.sample_macs(layer, node, index))

    def view(self, node: onnx.NodeProto, slot: int, shape: tuple[int, ...]) -> LayerWeight | None:
        if slot != _RIGHT or len(shape) != 2:
            return None
        return LayerWeight(node.name, node.input[slot], slot, shape, swapped=not attributes_of(node).get("transB", 0))

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        return (None if made is None else made[0],)
