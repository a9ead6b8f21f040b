"""Layers of a graph that can saturate, and where to read their activation codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxmpq.lint import (
    CODE_OFFSET,
    Graph,
    IntegerLayer,
    graphs,
    integer,
    integer_layers,
    label,
    summed_rows,
    without_functions,
)
from onnxmpq.rounding import overflowing_channels

Int8Array = NDArray[np.int8]
_CONV_ZERO_POINT = 2  # input of QLinearConv that holds the zero point of its activation


@dataclass(frozen=True)
class Source:
    """A tensor that holds a layer's activation codes, or the values that they are made from.

    kind: "codes" are integers, of uint8, or of int8 where `offset` is 128. "values" are floats of that scale and zero
    point. "dynamic" are floats that the layer quantizes itself, as DynamicQuantizeLinear does.
    """

    tensor: str
    kind: Literal["codes", "values", "dynamic"]
    offset: int = 0
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True)
class Window:
    """Geometry of a Conv. auto_pad: "NOTSET" takes `pads`. padding_code: the activation code of padded positions."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    padding_code: int


@dataclass(frozen=True, eq=False)
class Watched:
    """A layer whose saturated sums can be counted.

    filters: int8 [parts, R, K], K in the kernel's order. Parts are the groups of a Conv, or the matrices of a stack.
    stack: shape of that stack, () for a plain matrix. code: the largest activation code that the graph allows.
    window: None for a matrix product. transposed: the activation is [K, M] (transA).
    """

    name: str
    source: Source
    filters: Int8Array
    code: int
    window: Window | None = None
    stack: tuple[int, ...] = ()
    transposed: bool = False


@dataclass(frozen=True)
class Suspect:
    """A layer with channels that can saturate. watched: None where they cannot be counted, and `reason` says why."""

    name: str
    channels: int
    can: int
    watched: Watched | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Suspects:
    """proto: the model with its functions inlined, in which tensors have the names that `found` has.

    found: layers that can saturate, in the order of the rule `overflow`. integer_layers: how many were looked at.
    """

    proto: onnx.ModelProto
    found: tuple[Suspect, ...]
    integer_layers: int


def suspects(proto: onnx.ModelProto) -> Suspects:
    """The layers that the rule `overflow` names. The model is not changed."""
    plain = without_functions(proto)
    layers = [(graph, layer) for graph in graphs(plain) for layer in integer_layers(graph)]
    found = tuple(s for graph, layer in layers if (s := _suspect(graph, layer)) is not None)
    return Suspects(plain, found, len(layers))


def _suspect(graph: Graph, layer: IntegerLayer) -> Suspect | None:
    rows = [r for tensor in layer.weights if (r := summed_rows(graph, layer, tensor)) is not None]
    can = sum(int(np.count_nonzero(overflowing_channels(r, layer.code))) for r in rows)
    if not can:
        return None
    name, channels = label(layer.node), sum(map(len, rows))
    found = _watched(graph, layer, name)
    if isinstance(found, str):
        return Suspect(name, channels, can, None, found)
    return Suspect(name, channels, can, found)


def _watched(graph: Graph, layer: IntegerLayer, name: str) -> Watched | str:
    """Layers that can be counted, or the reason why nothing can."""
    node = layer.node
    if graph.outer is not None:
        return "it is in the body of another node"
    if node.op_type == "DynamicQuantizeLSTM":
        return "its codes are made inside the node"
    source = _source(graph, layer)
    if source is None:
        return "scale and zero point of its activation are not single constants"
    [tensor] = layer.weights
    rows, stored = summed_rows(graph, layer, tensor), graph.integers(tensor)
    assert rows is not None and stored is not None
    stack = () if layer.layout == "Conv" else stored.shape[:-2]
    parts = integer(node, "group", 1) if layer.layout == "Conv" else int(np.prod(stack))
    return Watched(
        name,
        source,
        rows.astype(np.int8).reshape(parts, -1, rows.shape[1]),
        layer.code,
        _window(node, stored.shape[2:], source) if layer.layout == "Conv" else None,
        stack,
        bool(integer(node, "transA", 0)),
    )


def _source(graph: Graph, layer: IntegerLayer) -> Source | None:
    """Where the codes are; None where what is needed of them is computed at run time."""
    node, data = layer.node, layer.data
    if node.op_type == "DynamicQuantizeMatMul":
        return Source(node.input[0], "dynamic")
    if data is None:
        zero = _single(graph, node.input[_CONV_ZERO_POINT]) if layer.layout == "Conv" else 0.0
        return None if zero is None else Source(node.input[0], "codes", zero_point=int(zero))
    scale = _single(graph, data.scale)
    zero = _single(graph, data.zero_point) if data.zero_point else 0.0
    if scale is None or zero is None:
        return None
    offset = CODE_OFFSET if data.element == TensorProto.INT8 else 0
    if node.input[0] == data.result:
        return Source(data.data, "codes", offset, scale, int(zero))
    return Source(node.input[0], "values", offset, scale, int(zero))


def _single(graph: Graph, tensor: str) -> float | None:
    value = graph.value(tensor)
    return None if value is None or value.size != 1 else float(value.ravel()[0])


def _window(node: onnx.NodeProto, shape: tuple[int, ...], source: Source) -> Window:
    given = {a.name: a for a in node.attribute}
    rank = len(shape)

    def sizes(name: str, default: int, count: int) -> tuple[int, ...]:
        return tuple(given[name].ints) if name in given and given[name].ints else (default,) * count

    auto_pad = given["auto_pad"].s.decode() if "auto_pad" in given else "NOTSET"
    return Window(
        tuple(shape),
        sizes("strides", 1, rank),
        sizes("dilations", 1, rank),
        sizes("pads", 0, 2 * rank),
        auto_pad or "NOTSET",
        source.zero_point + source.offset,
    )
