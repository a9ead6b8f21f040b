"""Types of tensors that shape inference does not know: those behind operators of other domains, as onnxruntime has.

What reads a tensor often tells: the operands of MatMul or Add are of one type, and one of them is a float32 constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

_ALL = (
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Concat", "MatMul", "Gemm", "Conv", "ConvTranspose"),
    *("InstanceNormalization", "LayerNormalization", "PRelu"),
)
_FIRST = (
    *("Relu", "Sigmoid", "Tanh", "Softmax", "LeakyRelu", "Elu", "Erf", "Sqrt", "Exp", "Log", "Neg", "Abs", "Gelu"),
    *("Clip", "BatchNormalization", "GroupNormalization", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("ReduceMean", "ReduceSum", "Pad", "Resize", "Dropout", "Identity", "Reshape", "Transpose", "Flatten"),
    *("Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile"),
)
_SHARED: Mapping[str, int | None] = {**dict.fromkeys(_ALL), **dict.fromkeys(_FIRST, 1)}
"""Operator -> how many of its first inputs have the type of its first output, None for all."""


def float_by_use(nodes: Sequence[onnx.NodeProto], types: Mapping[str, int]) -> set[str]:
    """Tensors without a type that must be float32, since they share their type with one that is.

    types: element types of all tensors that are known, constants included.
    """
    found: set[str] = set()
    every = [_same_type(n) for n in nodes if n.op_type in _SHARED and n.domain in ("", "ai.onnx")]
    changed = True
    while changed:
        changed = False
        for group in (*every, *reversed(every)):
            if any(t in found or types.get(t) == onnx.TensorProto.FLOAT for t in group):
                new = {t for t in group if t not in types} - found
                found |= new
                changed = changed or bool(new)
    return found


def _same_type(node: onnx.NodeProto) -> list[str]:
    return [t for t in (*node.input[: _SHARED[node.op_type]], *node.output[:1]) if t]


def described(tensors: Iterable[str]) -> list[onnx.ValueInfoProto]:
    """float32 of any shape."""
    kind = onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=onnx.TensorProto.FLOAT))
    return [onnx.ValueInfoProto(name=t, type=kind) for t in tensors]
