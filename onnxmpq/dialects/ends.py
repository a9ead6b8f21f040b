"""Inputs and outputs of a graph in 16 bits: the casts at its border are left to the caller."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxmpq.dialects.writer import Writer
from onnxmpq.schemes import ELEMENTS, HalfType


def narrow_ends(writer: Writer, inputs: Mapping[str, HalfType], outputs: Mapping[str, HalfType]) -> None:
    """Give inputs and outputs their 16-bit types. outputs: those that a Cast to float32 makes from that type."""
    for tensor in writer.graph.inputs:
        if tensor.name in inputs:
            _narrow_input(writer, tensor, ELEMENTS[inputs[tensor.name]])
    for tensor in writer.graph.outputs:
        if tensor.name in outputs:
            _narrow_output(writer, tensor, ELEMENTS[outputs[tensor.name]])


def _narrow_input(writer: Writer, tensor: gs.Variable, element: int) -> None:
    """Casts to the type vanish; what reads float32, as a QuantizeLinear does, reads a Cast back to it."""
    casts = [n for n in tensor.outputs if n.op == "Cast" and n.attrs["to"] == element]
    others = [n for n in tensor.outputs if n not in casts and n.op != "Shape"]
    for cast in casts:
        _read_instead(cast.outputs[0], tensor)
        cast.outputs.clear()
    if others:
        wide = gs.Variable(writer.new(f"{tensor.name}/float32"), dtype=np.float32)
        for node in others:
            node.inputs = [wide if t is tensor else t for t in node.inputs]
        writer.append_cast(tensor, wide, TensorProto.FLOAT)
    tensor.dtype = element


def _narrow_output(writer: Writer, tensor: gs.Variable, element: int) -> None:
    """The input of the Cast becomes the output; other readers of the output still read float32."""
    [cast] = tensor.inputs
    [narrow] = cast.inputs
    wide = gs.Variable(writer.new(f"{tensor.name}/float32"), dtype=np.float32)
    _read_instead(tensor, wide)
    cast.outputs = [wide]
    [producer] = narrow.inputs
    producer.outputs = [tensor if t is narrow else t for t in producer.outputs]
    _read_instead(narrow, tensor)
    tensor.dtype = element


def _read_instead(tensor: gs.Variable, other: gs.Variable) -> None:
    for node in list(tensor.outputs):
        node.inputs = [other if t is tensor else t for t in node.inputs]
