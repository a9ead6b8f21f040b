"""Small graphs for compilers, as ONNX text with constants of chosen types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper


def constant(name: str, element: int, shape: tuple[int, ...]) -> onnx.TensorProto:
    """Codes of 1, and scales of 0.02."""
    is_float = element in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return helper.make_tensor(name, element, shape, np.full(shape, 0.02 if is_float else 1).ravel().tolist())


def model(body: str, constants: list[onnx.TensorProto], x: str = "float[4, 256] x") -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({x}) => (float[A, B] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(constants)
    return proto


def int4_weights(block: int = 64) -> onnx.ModelProto:
    """A MatMul of float activations and int4 weights [256, 512] in blocks."""
    return model(
        f"e = DequantizeLinear <axis = 0, block_size = {block}> (w, s) y = MatMul (x, e)",
        [
            constant("w", TensorProto.INT4, (256, 512)),
            constant("s", TensorProto.FLOAT, (256 // block, 512)),
        ],
    )


def float8() -> onnx.ModelProto:
    """A MatMul of activations and weights [256, 512] in float8e4m3fn."""
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, (), [0.0])
    return model(
        "q = QuantizeLinear (x, a, z) d = DequantizeLinear (q, a, z) "
        "e = DequantizeLinear <axis = 1> (w, s) y = MatMul (d, e)",
        [
            constant("w", TensorProto.FLOAT8E4M3FN, (256, 512)),
            constant("s", TensorProto.FLOAT, (512,)),
            constant("a", TensorProto.FLOAT, ()),
            zero,
        ],
    )
