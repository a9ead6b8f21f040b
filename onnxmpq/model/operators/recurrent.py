"""LSTM, GRU and RNN."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.input_view import InputView
from onnxmpq.model.operators.types import Dimensions, LayerOperator, computes_floats, constant_weight, further_key

_INPUT, _STATE = 1, 2  # slots of W [directions, gates·H, I] and R [directions, gates·H, H]


class Recurrent(LayerOperator):
    """W multiplies what is read at each step, R the state of the step before. Biases and peepholes stay float.

    Every gate of every direction is an output channel. The kernels unfold both weights; they multiply nothing as
    stored.
    """

    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        if not computes_floats(node, index):
            return None
        shapes = {slot: shape for slot in (_INPUT, _STATE) if (shape := constant_weight(node, slot, index))}
        weights = [weight for slot, shape in shapes.items() if (weight := self.view(node, slot, shape)) is not None]
        if not weights:
            return None
        others = [replace(w, key=further_key(node, w.slot, index)) for w in weights[1:]]
        layer = Layer((weights[0], *others), storage_only=True)
        return replace(layer, macs=self.sample_macs(layer, node, index))

    def view(self, node: onnx.NodeProto, slot: int, shape: tuple[int, ...]) -> LayerWeight | None:
        if slot not in (_INPUT, _STATE) or len(shape) != 3:
            return None
        return LayerWeight(node.name, node.input[slot], slot, shape, channel_axes=2)

    def input_view(self, node: onnx.NodeProto, layer: Layer, weight: LayerWeight) -> InputView | None:
        """States are inside the kernel."""
        return InputView(weight.fan_in) if weight.slot == _INPUT else None

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        """The input is [steps, batch, I], or [batch, steps, I] with layout 1."""
        return (None, None) if given is None or len(given) < 2 else (given[1], given[0])
