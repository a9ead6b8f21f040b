"""Graphs of one layer each: every way of storing its weight and of quantizing what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper

BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "float8e4m3fn": 8, "float4e2m1": 4}
ROWS, INPUTS, OUTPUTS, MAPS, HEAD = 4, 256, 512, 64, 64


@dataclass(frozen=True)
class Layer:
    """An operator and its weight. axes: of input and output channels. text: with `x`, or `d`, and weight `w`."""

    name: str
    shape: tuple[int, ...]
    input_axis: int
    output_axis: int
    x: tuple[int, ...]
    text: str


LAYERS = (
    Layer("MatMul", (INPUTS, OUTPUTS), 0, 1, (ROWS, INPUTS), "MatMul ({x}, {w})"),
    Layer("MatMul, 3D input", (INPUTS, OUTPUTS), 0, 1, (2, ROWS, INPUTS), "MatMul ({x}, {w})"),
    Layer("Gemm", (INPUTS, OUTPUTS), 0, 1, (ROWS, INPUTS), "Gemm ({x}, {w})"),
    Layer("Gemm, transB", (OUTPUTS, INPUTS), 1, 0, (ROWS, INPUTS), "Gemm <transB = 1> ({x}, {w})"),
    Layer("Conv 3x3", (128, 128, 3, 3), 1, 0, (2, 128, 16, 16), "Conv <pads = [1, 1, 1, 1]> ({x}, {w})"),
    Layer("Conv 1x1", (256, 256, 1, 1), 1, 0, (2, 256, 16, 16), "Conv ({x}, {w})"),
    Layer("depthwise Conv", (512, 1, 3, 3), 1, 0, (2, 512, 8, 8), "Conv <group = 512, pads = [1, 1, 1, 1]> ({x}, {w})"),
    Layer("grouped Conv", (256, 64, 3, 3), 1, 0, (2, 256, 8, 8), "Conv <group = 4, pads = [1, 1, 1, 1]> ({x}, {w})"),
    Layer("Conv, 1D", (256, 256, 3), 1, 0, (2, 256, 32), "Conv <pads = [1, 1]> ({x}, {w})"),
    Layer("ConvTranspose", (128, 128, 2, 2), 0, 1, (2, 128, 8, 8), "ConvTranspose <strides = [2, 2]> ({x}, {w})"),
)
EMBEDDING = Layer("embedding", (OUTPUTS, INPUTS), 0, 1, (ROWS,), "Gather ({w}, {x})")


@dataclass(frozen=True)
class Spelling:
    """element: of the stored weight. step: type to which the unfolded weight is quantized again. activations: type of
    quantized activations, "" for floating point. granularity: tensor, channel, or a block size. along: input or output
    axis of blocks. scales: their type, which is also the type that is computed in. zero: of the weight's zero point."""

    layer: Layer
    element: str
    granularity: str
    along: str = "input"
    scales: str = "float16"
    step: str = ""
    activations: str = ""
    zero: int | None = None

    @property
    def scheme(self) -> str:
        weights = self.element + (f" → {self.step}" if self.step else "")
        return f"{weights} × {self.activations or self.scales}"

    @property
    def elements(self) -> int:
        return int(np.prod(self.layer.shape))


def spellings() -> Iterator[Spelling]:
    """Every row of the table."""
    for layer in (*LAYERS, EMBEDDING):
        yield from _weight_only(layer)
        if layer is not EMBEDDING:
            yield from _in_8_bits(layer)
            yield from _dual(layer)


def _blocks(layer: Layer) -> Iterator[tuple[str, str]]:
    """(granularity, axis): several sizes for matrices, what could be for convolutions."""
    yield from (("tensor", "input"), ("channel", "output"))
    matrix = len(layer.shape) == 2
    for size in (16, 32, 64, 128, 256) if matrix else (64,):
        if layer.shape[layer.input_axis] % size == 0:
            yield str(size), "input"
    if matrix:
        yield "64", "output"


def _weight_only(layer: Layer) -> Iterator[Spelling]:
    for granularity, along in _blocks(layer):
        yield Spelling(layer, "int4", granularity, along)
    plain = "64" if layer.shape[layer.input_axis] % 64 == 0 else "channel"
    for scales in ("bfloat16", "float"):
        yield Spelling(layer, "int4", plain, scales=scales)
    yield Spelling(layer, "int4", plain, zero=3)
    yield Spelling(layer, "uint4", plain, zero=8)
    for element in ("int8", "float8e4m3fn"):
        yield Spelling(layer, element, "channel", "output")
    if plain == "64":
        yield Spelling(layer, "int8", "64")
        yield Spelling(layer, "float4e2m1", "16")


def _in_8_bits(layer: Layer) -> Iterator[Spelling]:
    for element in ("int8", "float8e4m3fn"):
        for granularity, along in (("tensor", "input"), ("channel", "output"), ("channel", "input")):
            yield Spelling(layer, element, granularity, along, "float", activations=element)
        for scales in ("float16", "bfloat16"):
            yield Spelling(layer, element, "channel", "output", scales, activations=element)
    yield Spelling(layer, "int8", "channel", "output", "float", activations="int8", zero=3)
    yield Spelling(layer, "uint8", "channel", "output", "float", activations="int8", zero=128)


def _dual(layer: Layer) -> Iterator[Spelling]:
    if layer.shape[layer.input_axis] % 64:
        return
    for size in ("32", "64", "128") if layer.shape[layer.input_axis] % 128 == 0 else ("64",):
        yield Spelling(layer, "int4", size, scales="float", step="float8e4m3fn", activations="float8e4m3fn")
    yield Spelling(layer, "int4", "64", scales="float16", step="float8e4m3fn", activations="float8e4m3fn")
    yield Spelling(layer, "int4", "64", scales="float", activations="float8e4m3fn")
    yield Spelling(layer, "int4", "64", scales="float", step="int8", activations="int8")
    yield Spelling(layer, "int4", "64", scales="float", activations="int8")


def graph(spelling: Spelling) -> onnx.ModelProto:
    """A layer that reads `x` and writes `y`, in the type of its scales."""
    layer, kind, body, constants = spelling.layer, spelling.scales, "", []
    embeds = layer is EMBEDDING
    constants += list(_weight(spelling))
    named = "w, sw" + (", zw" if spelling.zero is not None else "")
    axis = layer.input_axis if spelling.along == "input" else layer.output_axis
    block = int(spelling.granularity) if spelling.granularity.isdigit() else 0
    attributes = f"<axis = {axis}{f', block_size = {block}' if block else ''}>"
    body += f"e = DequantizeLinear {attributes} ({named}) "
    weight = "e"
    if spelling.step:
        constants += [_scalar("st", kind, 0.03125), _zero("zt", spelling.step)]
        body += "eq = QuantizeLinear (e, st, zt) f = DequantizeLinear (eq, st, zt) "
        weight = "f"
    data = "x"
    if spelling.activations:
        constants += [_scalar("sx", kind, 0.02), _zero("zx", spelling.activations)]
        body += "q = QuantizeLinear (x, sx, zx) d = DequantizeLinear (q, sx, zx) "
        data = "d"
    body += f"y = {layer.text.format(x=data, w=weight)}"
    x = f"{'int64' if embeds else kind}[{', '.join(map(str, layer.x))}] x"
    rank = len(layer.x) + embeds
    opset = 23 if spelling.element == "float4e2m1" else 21
    head = f'<ir_version: {11 if opset > 21 else 10}, opset_import: ["" : {opset}]>'
    dims = ", ".join(f"D{i}" for i in range(rank))
    proto = onnx.parser.parse_model(f"{head} g ({x}) => ({kind}[{dims}] y) {{ {body} }}")
    proto.graph.initializer.extend(constants)
    return proto


def _weight(spelling: Spelling) -> Iterator[onnx.TensorProto]:
    """Random codes, their scales, and zero points where there are any."""
    layer, generator = spelling.layer, np.random.default_rng(0)
    yield _codes("w", spelling.element, layer.shape, generator)
    axis = layer.input_axis if spelling.along == "input" else layer.output_axis
    shape = list(layer.shape)
    if spelling.granularity == "tensor":
        shape = []
    elif spelling.granularity == "channel":
        shape = [layer.shape[axis]]
    else:
        shape[axis] //= int(spelling.granularity)
    scales = generator.uniform(0.01, 0.02, shape)
    yield _floats("sw", spelling.scales, scales)
    if spelling.zero is not None:
        values = np.full(shape, spelling.zero).ravel().tolist()
        yield helper.make_tensor("zw", _element(spelling.element), shape, values)


def _codes(name: str, element: str, shape: tuple[int, ...], generator: np.random.Generator) -> onnx.TensorProto:
    bits = 8 * int(np.prod(shape)) // 8
    if BITS[element] == 4:
        return helper.make_tensor(name, _element(element), shape, generator.bytes(bits // 2), raw=True)
    low = generator.integers(0, 120, shape).astype(np.uint8)  # no NaN of float8
    return helper.make_tensor(name, _element(element), shape, low.tobytes(), raw=True)


def _floats(name: str, kind: str, values: np.ndarray) -> onnx.TensorProto:
    dtype = {"float": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[kind]
    return helper.make_tensor(name, _element(kind), list(values.shape), values.astype(dtype).tobytes(), raw=True)


def _scalar(name: str, kind: str, value: float) -> onnx.TensorProto:
    return _floats(name, kind, np.array(value))


def _zero(name: str, element: str) -> onnx.TensorProto:
    return helper.make_tensor(name, _element(element), [], b"\0", raw=True)


def _element(name: str) -> int:
    return int(TensorProto.DataType.Value(name.upper()))
