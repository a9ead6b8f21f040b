"""The questions that the row of a layer operator answers; see docs/architecture.md, "A new layer operator"."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx

from onnxmpq.model.index import GraphIndex
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators.input_view import InputView

Dimensions = Sequence[int | None]  # None where a size is unknown


class LayerOperator(ABC):
    """An operator with constant weights. The defaults suit one whose weights are only stored in fewer bits."""

    float_result: ClassVar[bool] = False
    """Its int8 kernel hands on float32, as it rescales for free; a quantized reader quantizes then."""
    multiplies_blocks: ClassVar[bool] = False
    """There are kernels that multiply a weight [K, N] whose scales come in blocks along K."""
    looks_up: ClassVar[bool] = False
    """It hands on rows of a table, or all of it, and computes nothing."""
    convolves: ClassVar[bool] = False
    """It works on feature maps [N, C, ...], and its int8 kernel on NHWC."""
    may_make_logits: ClassVar[bool] = False
    """A result that nothing but pooling or reshaping follows may be the logits of a classifier."""
    absorbs_activation: ClassVar[bool] = False
    """A Relu or Clip that follows is computed in the same kernel."""
    bias_follows: ClassVar[bool] = False
    """Its bias is added by an Add that follows, unless its weights are only stored."""
    affine_axis: ClassVar[int | None] = None
    """The axis of the weight that counts output channels (of a group), where a BatchNormalization that follows can be
    folded into weight and bias."""

    @abstractmethod
    def describe(self, node: onnx.NodeProto, index: GraphIndex) -> Layer | None:
        """The layer that the node is; None where its weights are no constants in float32, or of a form without a matrix
        view."""

    @abstractmethod
    def view(self, node: onnx.NodeProto, slot: int, shape: tuple[int, ...]) -> LayerWeight | None:
        """A constant of this shape that the node reads at `slot`, as a weight with the node's name for its key; None
        where it is no weight there, or has no matrix view."""

    def input_view(self, node: onnx.NodeProto, layer: Layer, weight: LayerWeight) -> InputView | None:
        """The first input of the node as the rows that the weight is multiplied with, for second moments.

        None where they are no rows of that tensor: such a weight is rounded to nearest.
        """
        return None

    def result_axis(self, rank: int) -> int:
        """The axis of the first result that counts output channels."""
        return rank - 1

    def spans(self, given: Dimensions | None, made: Dimensions | None) -> Dimensions:
        """Dimensions over which the weights are used again, that of the batch first.

        given: shape of the first input; made: of the first result; None where unknown.
        """
        return (None, None) if made is None else made[:-1]

    def work(self, layer: Layer) -> int:
        """Multiply-accumulates each time that the weights are used."""
        return layer.parameters

    def macs(self, layer: Layer, given: Dimensions, made: Dimensions) -> int:
        """Multiply-accumulates of one run at these shapes."""
        return _product(self.spans(given, made)) * self.work(layer)

    def sample_macs(self, layer: Layer, node: onnx.NodeProto, index: GraphIndex) -> int:
        """Multiply-accumulates for one sample; 0 where the shapes are unknown."""
        return _product(self.spans(index.shape(node.input[0]), index.shape(node.output[0]))[1:]) * self.work(layer)


def constant_weight(node: onnx.NodeProto, slot: int, index: GraphIndex) -> tuple[int, ...] | None:
    """Shape of the constant float32 tensor that the node reads at `slot`; None where it reads no such tensor."""
    name = node.input[slot] if slot < len(node.input) else ""
    tensor = index.constants.get(name)
    return tuple(tensor.dims) if tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT else None


def computes_floats(node: onnx.NodeProto, index: GraphIndex, given: int = 0) -> bool:
    """True if a node of ONNX's own domain makes float32 from something that is not constant. given: slot of that."""
    return (
        node.domain in ("", "ai.onnx")
        and node.input[given] not in index.constants
        and any(index.is_float(t) for t in node.output)
    )


def further_key(node: onnx.NodeProto, slot: int, index: GraphIndex) -> str:
    """Key of a weight that is not the first of its layer: no node has that name."""
    key, taken = f"{node.name}/{slot}", {n.name for n in index.nodes}
    while key in taken:
        key += "_"
    return key


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _product(dimensions: Dimensions) -> int:
    """0 where one is unknown."""
    return math.prod(d or 0 for d in dimensions)
