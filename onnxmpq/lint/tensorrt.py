"""NVIDIA's rules for explicit quantization: what TensorRT's ONNX parser refuses, and what its documentation advises."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from onnxmpq.lint.common import idle, is_quantizer
from onnxmpq.lint.graph import FLOAT8, FOUR_BIT, LAYERS, UNDEFINED, Graph, Quantizer, integer, label, type_name
from onnxmpq.lint.types import Hit
from onnxmpq.model import is_quantized_op

QUANTIZED_TYPES = frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1})
SCALE_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
BLOCK_SIZES = (64, 128)
FEWEST_CHANNELS = 16  # of a convolution in fp8, or a product in 8 bits
FEWEST_IN_GROUP = 4  # channels of a grouped convolution in 8 bits
LARGEST_KERNEL = 32  # elements of a convolution's window in fp8, exclusive
BIAS_SLOT = 2


def symmetric(graph: Graph) -> Iterator[Hit]:
    """Zero points are absent, or constant and all zero.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/api/c_api/classnvinfer1_1_1_i_dequantize_layer.html
    """
    for q in graph.quantizers:
        if not q.zero_point:
            continue
        zeros = graph.value(q.zero_point)
        if zeros is None and not graph.is_constant(q.zero_point):
            yield q.name, "the zero point is computed at run time; TensorRT wants a constant of zeros, or none"
        elif zeros is not None and np.any(zeros != 0):
            found = zeros.ravel()[np.flatnonzero(zeros)[0]]
            yield q.name, f"zero point {found:g}: TensorRT is symmetric only; quantize with zero point 0"


def unsigned(graph: Graph) -> Iterator[Hit]:
    """8-bit values are signed: TensorRT takes uint8 for its DLA only, refuses to dequantize it elsewhere, and reads a
    QuantizeLinear to uint8, or without zero point, as one to int8.

    Source: https://github.com/onnx/onnx-tensorrt/blob/main/onnxOpImporters.cpp
    """
    for q in graph.quantizers:
        if q.element != TensorProto.UINT8:
            continue
        if q.quantizes and not q.zero_point:
            yield q.name, "without a zero point this is uint8 in ONNX and int8 in TensorRT; add an int8 zero point of 0"
        else:
            yield q.name, "uint8 is not supported; quantize to int8 with zero point 0"


def quantized_type(graph: Graph) -> Iterator[Hit]:
    """Quantized tensors are int8, float8e4m3fn, int4 or float4e2m1; float8 in another flavour, uint4 and 16 bits are
    not supported.

    Source: https://github.com/onnx/onnx-tensorrt/blob/main/onnxOpImporters.cpp
    """
    for q in graph.quantizers:
        if q.element in QUANTIZED_TYPES or q.element in (UNDEFINED, TensorProto.UINT8) or _is_bias(graph, q):
            continue
        advice = "use float8e4m3fn" if q.element in FLOAT8 else "use int8, float8e4m3fn, or int4 for weights"
        yield q.name, f"{type_name(q.element)} is not supported; {advice}"


def positive_scale(graph: Graph) -> Iterator[Hit]:
    """Scales are positive.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/api/c_api/classnvinfer1_1_1_i_quantize_layer.html
    """
    for q in graph.quantizers:
        scale = graph.value(q.scale)
        wrong = scale[scale <= 0] if scale is not None else np.empty(0)
        if scale is not None and wrong.size:
            yield q.name, f"{wrong.size} of {scale.size} scales are not positive (the first is {wrong[0]:g})"


def constant_scale(graph: Graph) -> Iterator[Hit]:
    """Scales are constants, as TensorRT documents; TensorRT-RTX 1.7 builds computed ones too.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/operators/docs/Quantize.html
    """
    for q in graph.quantizers:
        if not graph.is_constant(q.scale):
            yield q.name, f"the scale {q.scale!r} is computed at run time; TensorRT wants a constant"


def scale_type(graph: Graph) -> Iterator[Hit]:
    """Scales are float32, float16 or bfloat16, and of the type of the tensor that they quantize; TensorRT-RTX 1.7
    builds others of these three too.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html
    """
    for q in graph.quantizers:
        scale, data = graph.element(q.scale), graph.element(q.data)
        if scale not in SCALE_TYPES and scale != UNDEFINED:
            yield q.name, f"the scale is {type_name(scale)}; use float32, float16 or bfloat16"
        elif q.quantizes and graph.opset >= 19 and UNDEFINED not in (scale, data) and scale != data:
            yield q.name, f"a {type_name(scale)} scale quantizes a {type_name(data)} tensor; give both one type"


def activations_per_tensor(graph: Graph) -> Iterator[Hit]:
    """Activations have one scale each: scales per channel or block are read, but made for weights.

    Source: https://github.com/onnx/onnx-tensorrt/blob/main/onnxOpImporters.cpp
    """
    for q in graph.quantizers:
        scales = graph.shape(q.scale)
        if scales is None or graph.is_constant(q.data) or q.element == TensorProto.FLOAT4E2M1:
            continue
        if q.block_size or int(np.prod([1 if d is None else d for d in scales])) != 1:
            yield q.name, f"scales of shape {list(scales)} for an activation; use one scale for the tensor"


def int4_weights_only(graph: Graph) -> Iterator[Hit]:
    """int4 is for weights.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html
    """
    for q in _int4(graph):
        if not graph.is_constant(q.data):
            yield q.name, "int4 activations are not supported; only constant weights can be int4"


def int4_blocks(graph: Graph) -> Iterator[Hit]:
    """int4 weights have blocks of 64 or 128 along one of the last two dimensions, which the block size divides.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html
    """
    for q in _int4(graph):
        shape, size = graph.shape(q.data), _block(graph, q)
        rank = len(shape) if shape is not None else 0
        if size == 0:
            yield q.name, "int4 without blocks; give one scale per block of 64 or 128"
        elif size is not None and size not in BLOCK_SIZES:
            yield q.name, f"blocks of {size}; TensorRT takes 64 or 128"
        elif size and shape and -rank <= q.axis < rank:
            if q.axis % rank < rank - 2:
                yield q.name, f"blocks along axis {q.axis} of {rank}; TensorRT takes one of the last two"
            elif (length := shape[q.axis]) and length % size:
                yield q.name, f"{length} values along axis {q.axis} are no multiple of the block of {size}"


def int4_readers(graph: Graph) -> Iterator[Hit]:
    """int4 weights are read by MatMul or Gemm.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html
    """
    for q in _int4(graph):
        if q.quantizes:
            continue
        for use in graph.ends(q.result, frozenset({"Identity", "Reshape", "Transpose", "Cast"})):
            if use.node.op_type not in ("MatMul", "Gemm") and not is_quantizer(use.node):
                yield (
                    q.name,
                    f"feeds {label(use.node)} ({use.node.op_type}); int4 weights have kernels for MatMul and Gemm",
                )


def int4_even(graph: Graph) -> Iterator[Hit]:
    """4-bit tensors have an even number of elements.

    Source: https://github.com/onnx/onnx-tensorrt/blob/main/onnxOpImporters.cpp
    """
    for q in _int4(graph):
        shape = graph.shape(q.data)
        if shape is not None and None not in shape and int(np.prod([d or 0 for d in shape])) % 2:
            yield q.name, f"an int4 tensor of shape {list(shape)} has an odd number of elements; pad it"


def int4_weight_only(graph: Graph) -> Iterator[Hit]:
    """int4 weights meet float activations: NVIDIA documents int4 as weight-only, so with quantized activations there is
    no single kernel. TensorRT-RTX 1.7 keeps such weights at 4 bits in the engine; kernels are chosen on the device.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html
    """
    for node in graph.layers():
        weight = graph.dequantizer_of(node.input[1])
        inner = graph.quantizer_of(weight.data) if weight is not None else None
        packed = [w for w in (weight, graph.dequantizer_of(inner.data) if inner else None) if w is not None]
        if any(w.element in FOUR_BIT for w in packed) and graph.dequantizer_of(node.input[0]) is not None:
            yield (
                label(node),
                "int4 weights with quantized activations: int4 is weight-only, the weight is unpacked first",
            )


def int4_step(graph: Graph) -> Iterator[Hit]:
    """Where activations are in 8 bits, int4 weights go through a Q/DQ pair of that type: without it both operands of
    the product have different types, and TensorRT-RTX 1.7 does not build it.

    Source: tensorrt.md#rules
    """
    for node in graph.layers():
        data, weight = (graph.dequantizer_of(t) for t in node.input[:2])
        if data is not None and weight is not None and weight.element in FOUR_BIT and graph.is_constant(weight.data):
            step = type_name(data.element)
            if graph.quantizer_of(weight.data) is None:
                yield label(node), f"int4 weights x {step} activations; quantize the unfolded weights to {step} as well"


def narrow_groups(graph: Graph) -> Iterator[Hit]:
    """Convolutions in 8 bits have at least 4 channels a group: TensorRT-RTX 1.7 pads the weights of smaller groups, a
    depthwise layer's to 35 to 90 times their bytes.

    Source: tensorrt.md#grouped-convolutions
    """
    for node in graph.layers():
        shape = graph.shape(node.input[1])
        if node.op_type != "Conv" or shape is None or len(shape) < 3 or integer(node, "group", 1) == 1:
            continue
        quantized = all(graph.dequantizer_of(t) is not None for t in node.input[:2])
        if quantized and shape[1] is not None and shape[1] < FEWEST_IN_GROUP:
            yield label(node), f"{shape[1]} channels a group in 8 bits; leave it in floating point"


def float_bias(graph: Graph) -> Iterator[Hit]:
    """Biases stay in floating point.

    Source: https://github.com/microsoft/onnxruntime/issues/14229
    """
    for q in graph.quantizers:
        if not q.quantizes and _is_bias(graph, q):
            yield q.name, f"a {type_name(q.element)} bias; TensorRT adds biases in floating point, store it as such"


def pairs(graph: Graph) -> Iterator[Hit]:
    """Quantized values are dequantized again before an operator computes with it, and nothing else is dequantized.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    """
    for q in graph.quantizers:
        if q.quantizes:
            for use in graph.ends(q.result):
                if not is_quantizer(use.node) and not is_quantized_op(use.node.op_type):
                    yield q.name, f"{label(use.node)} reads quantized values; put a DequantizeLinear before it"
        elif not graph.is_constant(q.data) and graph.quantizer_of(q.data) is None and _origin(graph, q.data):
            yield q.name, f"dequantizes the result of {_origin(graph, q.data)}, which no QuantizeLinear made"


def quantized_ends(graph: Graph) -> Iterator[Hit]:
    """Inputs and outputs of the model are floating point.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    """
    for q in graph.quantizers:
        if q.quantizes and q.result in graph.outputs:
            yield q.name, f"the output {q.result!r} is {type_name(q.element)}; the application has to dequantize it"
        elif not q.quantizes and q.data in graph.inputs and not graph.is_constant(q.data):
            yield q.name, f"the input {q.data!r} is {type_name(q.element)}; the application has to quantize it"


def whole_layers(graph: Graph) -> Iterator[Hit]:
    """A layer has all its inputs quantized, or none; int4 weights alone are an exception.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    """
    for node in graph.layers():
        data, weight = (graph.dequantizer_of(t) for t in node.input[:2])
        if (data is None) == (weight is None):
            continue
        if weight is None and data is not None and idle(graph, data):
            yield label(node), "the activation is quantized and the other input is not: it runs in floating point"
        elif weight is not None and weight.element not in FOUR_BIT:
            yield label(node), f"{type_name(weight.element)} weights with a float activation: only int4 is weight-only"


def one_type(graph: Graph) -> Iterator[Hit]:
    """Both inputs of a layer are quantized to one type.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    """
    for node in graph.layers():
        data, weight = (graph.dequantizer_of(t) for t in node.input[:2])
        if data is None or weight is None or data.element == weight.element:
            continue
        if not {data.element, weight.element} & {*FOUR_BIT, TensorProto.UINT8, UNDEFINED}:
            yield label(node), f"{type_name(data.element)} activations x {type_name(weight.element)}; use one type"


def fp8_operators(graph: Graph) -> Iterator[Hit]:
    """float8 is not for ConvTranspose.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/operators/docs/Deconvolution.html
    """
    for node in graph.layers():
        if node.op_type == "ConvTranspose" and _in_fp8(graph, node):
            yield label(node), "TensorRT has no float8 ConvTranspose; use int8, or leave it in floating point"


def fp8_convolutions(graph: Graph) -> Iterator[Hit]:
    """Convolutions in float8 have at least 16 input and output channels, and windows of fewer than 32 elements.

    Source: https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/onnx/quantization/graph_utils.py
    """
    for node in graph.layers():
        shape = graph.shape(node.input[1])
        if node.op_type != "Conv" or not _in_fp8(graph, node) or shape is None or len(shape) < 3 or None in shape:
            continue
        sizes = [d or 0 for d in shape]
        if min(sizes[:2]) < FEWEST_CHANNELS or int(np.prod(sizes[2:])) >= LARGEST_KERNEL:
            yield label(node), f"a float8 convolution with a weight of shape {sizes} has no fast kernel"


def small_products(graph: Graph) -> Iterator[Hit]:
    """Products in 8 bits have at least 16 inputs and outputs: smaller ones run slower than in floating point.

    Source: https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/onnx/quantization/graph_utils.py
    """
    for node in graph.layers():
        shape = graph.shape(node.input[1])
        if node.op_type not in ("MatMul", "Gemm") or shape is None or graph.dequantizer_of(node.input[0]) is None:
            continue
        if any(d is not None and d < FEWEST_CHANNELS for d in shape[-2:]):
            yield label(node), f"an 8-bit product with a weight of shape {list(shape)}; leave it in floating point"


def residual_add(graph: Graph) -> Iterator[Hit]:
    """Where a quantized layer's result is added to a shortcut, the shortcut is quantized, so that the addition joins
    the layer's kernel.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    """
    for node in _additions(graph):
        made = [_quantized_layer(graph, t) for t in node.input]
        if any(made) and not any(graph.dequantizer_of(t) for t in node.input):
            shortcut = node.input[0 if made[1] else 1]
            yield (
                label(node),
                f"the shortcut {shortcut!r} is not quantized; put a Q/DQ pair on it, not on the other input",
            )


def split_add(graph: Graph) -> Iterator[Hit]:
    """Between a quantized layer and the addition of a shortcut there is no Q/DQ pair: it forces them apart.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    """
    for node in _additions(graph):
        last = [graph.dequantizer_of(t, frozenset()) for t in node.input]
        first = [graph.quantizer_of(q.data, frozenset()) for q in last if q is not None]
        between = [q for q in first if q is not None and _quantized_layer(graph, q.data)]
        if len(first) == 2 and between:
            yield label(node), f"{between[0].name} stands between a layer and this addition; quantize only the shortcut"


def unsupported_operators(graph: Graph) -> Iterator[Hit]:
    """Quantization is spelled with QuantizeLinear and DequantizeLinear; operators that compute on integers are not
    supported.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    """
    for node in graph.nodes:
        if is_quantized_op(node.op_type) and not is_quantizer(node):
            yield label(node), f"{node.op_type} is not supported; export QuantizeLinear and DequantizeLinear pairs"
        elif is_quantizer(node) and node.domain.startswith("com.microsoft"):
            yield label(node), f"{node.domain}.{node.op_type} is onnxruntime's own; use the standard operator"


def _int4(graph: Graph) -> list[Quantizer]:
    return [q for q in graph.quantizers if q.element in FOUR_BIT]


def _block(graph: Graph, q: Quantizer) -> int | None:
    """Values per scale along the blocked axis, from the shapes where the attribute is missing; 0: no blocks."""
    scales, data = graph.shape(q.scale), graph.shape(q.data)
    if q.block_size:
        return q.block_size
    if scales is None or data is None:
        return None
    if len(scales) != len(data) or len(scales) < 2:
        return 0
    ratios = [d // s for s, d in zip(scales, data, strict=True) if s and d and d != s]
    return ratios[0] if len(ratios) == 1 else 0


def _is_bias(graph: Graph, q: Quantizer) -> bool:
    uses = graph.uses.get(q.result, [])
    return bool(uses) and all(u.slot == BIAS_SLOT and u.node.op_type in ("Conv", "ConvTranspose", "Gemm") for u in uses)


def _in_fp8(graph: Graph, node: onnx.NodeProto) -> bool:
    return any(q is not None and q.element in FLOAT8 for q in map(graph.dequantizer_of, node.input[:2]))


def _origin(graph: Graph, tensor: str) -> str:
    maker = graph.makers.get(tensor)
    return "" if maker is None or is_quantized_op(maker.op_type) else label(maker)


def _quantized_layer(graph: Graph, tensor: str) -> bool:
    """True if a layer with quantized inputs made the tensor, perhaps with its bias as an addition of its own."""
    maker = graph.makers.get(tensor)
    if maker is not None and maker.op_type == "Add" and any(graph.is_constant(t) for t in maker.input):
        maker = next((graph.makers.get(t) for t in maker.input if not graph.is_constant(t)), None)
    if maker is None or maker.op_type not in LAYERS or len(maker.input) < 2:
        return False
    return all(graph.dequantizer_of(t) is not None for t in maker.input[:2])


def _additions(graph: Graph) -> Iterator[onnx.NodeProto]:
    """Additions of two activations."""
    for node in graph.nodes:
        if (
            node.op_type == "Add"
            and len(node.input) == 2
            and not any(graph.is_constant(t) or not t for t in node.input)
        ):
            yield node
