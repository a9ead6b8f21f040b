"""A model's structure without its large tensors: what checking and shape inference need, however big the file is."""

from __future__ import annotations

import onnx

LARGEST_BYTES = 2**31 - 2**20  # protobuf's end, and with it that of onnx's checker, inliner and opset converter
LARGEST_KEPT = 4096  # elements; operators that read values while shapes are inferred (Reshape, Slice, ...) read few


def shell(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each large initializer turned into an input of its type and shape.

    onnx.checker, the opset converter and shape inference serialize what they are given, and protobuf ends at 2 GB.
    """
    small = onnx.ModelProto(ir_version=proto.ir_version)
    small.opset_import.extend(proto.opset_import)
    small.functions.extend(proto.functions)
    graph = small.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    graph.sparse_initializer.extend(proto.graph.sparse_initializer)
    inputs = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if _elements(tensor) <= LARGEST_KEPT:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return small


def inferable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The shell without declared shapes of outputs: exporters often write wrong ones, and runtimes only warn of it."""
    small = shell(proto)
    for info in small.graph.output:
        if info.type.WhichOneof("value") == "tensor_type":
            info.type.tensor_type.ClearField("shape")
    return small


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count
