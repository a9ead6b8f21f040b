"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.input_view import InputView
from onnxmpq.model.operators.types import Dimensions, LayerOperator, attributes_of, computes_floats, constant_weight

_WEIGHT, _BIAS = 1, 2


class _Convolution(LayerOperator):
    convolves = absorbs_activation = True

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        shape = constant_weight(node, _WEIGHT, index)
        weight = self.view(node, _WEIGHT, shape) if shape is not None else None
        if weight is None or not computes_floats(node, index):
            return None
        bias = node.input[_BIAS] if len(node.input) > _BIAS and node.input[_BIAS] else None
        if bias is not None and bias not in index.constants:
            return None
        layer = Layer((weight,), bias, _BIAS, _groups(node))
        return replace(layer, macs=self.sample_macs(layer, node, index))

    def view(self, node: onnx.NodeProto, slot: int, shape: tuple[int, ...]) -> LayerWeight | None:
        return LayerWeight(node.name, node.input[slot], slot, shape) if slot == _WEIGHT else None

    def result_axis(self, rank: int) -> int:
        return 1


class Convolution(_Convolution):
    """Conv: weight [O, C / groups, *kernel]."""

    may_make_logits = True
    affine_axis = 0

    def input_view(self, node: onnx.NodeProto, layer: Layer, weight: LayerWeight) -> InputView | None:
        attributes, kernel = attributes_of(node), weight.shape[2:]
        ones = (1,) * len(kernel)
        return InputView(
            weight.fan_in,
            layer.groups,
            kernel,
            tuple(attributes.get("strides", ones)),
            tuple(attributes.get("dilations", ones)),
            *_pads(attributes, len(kernel)),
        )

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        return (None, None) if made is None else (made[0], *made[2:])


class TransposedConvolution(_Convolution):
    """ConvTranspose: weight [C, O / groups, *kernel].

    A matrix [C, O / groups · kernel] would mix output channels: the view has a row per input channel, and only stores.
    """

    affine_axis = 1

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        layer = super().describe(node, index)
        return layer and replace(layer, storage_only=True)

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        """Every input element meets one row."""
        return (None, None) if given is None else (given[0], *given[2:])


def _groups(node: onnx.NodeProto) -> int:
    return int(attributes_of(node).get("group", 1))


def _pads(attributes: Mapping[str, Any], axes: int) -> tuple[tuple[tuple[int, int], ...] | None, str]:
    """(pads or None, auto_pad)."""
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return None, auto
    given = attributes.get("pads", [0] * 2 * axes) if auto == "NOTSET" else [0] * 2 * axes
    return tuple(zip(given[:axes], given[axes:], strict=True)), auto
