"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.input_view import InputView
from onnxmpq.model.operators.types import (
    Dimensions,
    LayerOperator,
    attributes_of,
    computes_floats,
    constant_weight,
)

_BIAS = 2


class Convolution(LayerOperator):
    """Conv: weight [O, C / groups, *kernel]."""

    convolves = absorbs_activation = may_make_logits = True
    affine_axis = 0

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        layer = _layer(node, index)
        return layer and replace(layer, macs=self.sample_macs(layer, node, index))

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

    def result_axis(self, rank: int) -> int:
        return 1

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        return (None, None) if made is None else (made[0], *made[2:])


class TransposedConvolution(LayerOperator):
    """ConvTranspose: weight [C, O / groups, *kernel].

    A matrix [C, O·kernel] would mix output channels: the view keeps a row per input channel, and only stores.
    """

    convolves = absorbs_activation = True
    affine_axis = 1

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        layer = _layer(node, index)
        if layer is None or layer.groups != 1:
            return None
        return replace(layer, macs=self.sample_macs(layer, node, index), storage_only=True)

    def result_axis(self, rank: int) -> int:
        return 1

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        """Every input element meets one row."""
        return (None, None) if given is None else (given[0], *given[2:])


def _layer(node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
    """Without its multiply-accumulates."""
    shape = constant_weight(node, 1, index)
    if shape is None or not computes_floats(node, index):
        return None
    bias = node.input[_BIAS] if len(node.input) > _BIAS and node.input[_BIAS] else None
    if bias is not None and bias not in index.constants:
        return None
    weight = LayerWeight(node.name, node.input[1], 1, shape)
    return Layer((weight,), bias, _BIAS, attributes_of(node).get("group", 1))


def _pads(attributes: Mapping[str, Any], axes: int) -> tuple[tuple[tuple[int, int], ...] | None, str]:
    """(pads or None, auto_pad)."""
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return None, auto
    given = attributes.get("pads", [0] * 2 * axes) if auto == "NOTSET" else [0] * 2 * axes
    return tuple(zip(given[:axes], given[axes:], strict=True)), auto
