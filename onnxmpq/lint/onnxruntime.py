"""Q/DQ graphs in onnxruntime's CPU provider: what it refuses, computes wrongly, or fails to fuse.

What differs between versions is probed on the onnxruntime that is installed (`runtimes/onnxruntime/probes.py`); the
other rules were tried on 1.22 to 1.32, and `tests/lint` tries all of them on the installed one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from onnxmpq.lint.common import idle, same_grid
from onnxmpq.lint.graph import FLOAT8, FOUR_BIT, LAYERS, MOVERS, UNDEFINED, Graph, Quantizer, integer, label, type_name
from onnxmpq.lint.types import Hit
from onnxmpq.runtimes import (
    CLIP_TO_FLOAT8,
    CONV_BIAS_SCALE,
    GEMM_FLOAT_BIAS,
    GEMM_WITHOUT_ZERO_POINT,
    GROUPED_ATTENTION,
    OPERATORS,
    PROBES,
    RELU_TO_FLOAT8,
    blocks_name,
    float8_name,
    probes,
)

_VERSION = f"onnxruntime {ort.__version__}"
ENTRY = "session.disable_quant_qdq"
RELU_REWRITE, CLIP_REWRITE = "ReluQuantRewrite", "ClipQuantRewrite"
EIGHT_BIT: frozenset[int] = frozenset({TensorProto.INT8, TensorProto.UINT8})
WIDE: frozenset[int] = frozenset({TensorProto.INT16, TensorProto.UINT16})
LOWEST: dict[int, int] = {TensorProto.UINT8: 0, TensorProto.INT8: -128}
HIGHEST: dict[int, int] = {TensorProto.UINT8: 255, TensorProto.INT8: 127}
SMALLEST_BLOCK = 16
BIAS_TOLERANCE = 1e-3  # of a bias scale against the product of the other two, in float32
# Inputs that must be dequantized for an operator to become a QLinear one where its result is quantized; None: all.
_FUSED: dict[str, slice] = {
    "Add": slice(2),
    "AveragePool": slice(1),
    "Concat": slice(None),
    "Conv": slice(1),
    "Gemm": slice(1),
    "GlobalAveragePool": slice(1),
    "LeakyRelu": slice(1),
    "MatMul": slice(2),
    "Mul": slice(2),
    "Sigmoid": slice(1),
    "Softmax": slice(1),
    "Where": slice(1, 3),
}


def float8_fusion(graph: Graph) -> Iterator[Hit]:
    """float8 Q/DQ pairs are not where the default session fails to load them: some versions fuse them to an integer
    operator that rejects float8. It loads with the session entry `session.disable_quant_qdq` set to `1`, behind a Clip
    without the optimizer `ClipQuantRewrite`.

    Which patterns those are is probed on the onnxruntime that is installed (runtimes.md).

    Source: https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h
    """
    for node in graph.nodes:
        if node.input and node.output and (pattern := _float8_pattern(graph, node)) and probes.holds(pattern) is False:
            yield label(node), f"the default session of {_VERSION} fails on float8 here; {_remedy(node)}"


def _remedy(node: onnx.NodeProto) -> str:
    if node.op_type == "Clip":
        return f"open it with disabled_optimizers=[{CLIP_REWRITE!r}]"
    return f'set the session entry "{ENTRY}" to "1"'


def _float8_pattern(graph: Graph, node: onnx.NodeProto) -> str | None:
    """The probe that asks about the node and the float8 around it, None where there is none."""
    op, after = node.op_type, _quantized_to(graph, node.output[0])
    data = [graph.dequantizer_of(t, _SEEN_THROUGH) for t in node.input[_FUSED.get(op, slice(1))]]
    given = [q for q in data if q is not None]
    if not given or len(given) < len(data):
        return CLIP_TO_FLOAT8 if op == "Clip" and after is not None and after.element in FLOAT8 else None
    result = "float" if after is None else "uint8"
    if after is not None and after.element in FLOAT8:
        result = "the same grid" if same_grid(graph, given[0], after) else "another grid"
    if op in LAYERS and len(node.input) > 1:
        weight = _stored(graph.dequantizer_of(node.input[1], _SEEN_THROUGH))
        float8 = given[0].element in FLOAT8
        name = float8_name(op, result, weight, "float8" if float8 else "uint8")
        return name if name in PROBES and (float8 or weight.startswith("float8")) else None
    if op not in OPERATORS or not all(q.element in FLOAT8 for q in given):
        return None
    return float8_name(op, result)


def _stored(q: Quantizer | None) -> str:
    """The storage of a layer's weight, in the words of the probes."""
    if q is None:
        return "float"
    if q.element in FOUR_BIT:
        return "int4"
    kind = "float8" if q.element in FLOAT8 else "int8"
    return kind if q.zero_point else f"{kind} without zero point"


def float8_relu(graph: Graph) -> Iterator[Hit]:
    """No float8 pair follows a Relu directly: the default session takes zero for the lowest value that the pair can
    hold, and drops the Relu.

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/relu_quantizelinear.cc
    """
    for q in graph.quantizers:
        maker = graph.makers.get(q.data)
        if q.element not in FLOAT8 or maker is None or maker.op_type != "Relu" or len(graph.uses.get(q.data, ())) != 1:
            continue
        if q.quantizes and q.zero_point and probes.holds(RELU_TO_FLOAT8) is False:
            remedy = f"open it with disabled_optimizers=[{RELU_REWRITE!r}]"
            yield label(maker), f"the default session of {_VERSION} drops this Relu; {remedy}"


def float8_speed(graph: Graph) -> Iterator[Hit]:
    """float8 is emulated on CPUs, slower than float32.

    Source: check.md#measured
    """
    yield from _once(graph, FLOAT8, "float8 activations are emulated on the CPU, slower than float32")


def signed_activations(graph: Graph) -> Iterator[Hit]:
    """Activations are uint8: on x86, whole networks with int8 activations ran 1.1 to 3.0 times slower than in float32.

    Source: check.md#measured
    """
    yield from _once(
        graph,
        frozenset({TensorProto.INT8}),
        "int8 activations; quantize activations to uint8, which x86 computes faster",
    )


def wide_activations(graph: Graph) -> Iterator[Hit]:
    """Activations have 8 bits: nothing is fused around 16.

    Source: check.md#measured
    """
    yield from _once(graph, WIDE, "16-bit activations are not fused; layers compute in float32 behind the Q/DQ pairs")


def gemm_bias_scale(graph: Graph) -> Iterator[Hit]:
    """The scale of a Gemm's int32 bias is the product of the scales of its input and weight: QGemm assumes it without
    looking.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.QGemm
    """
    yield from _bias_scale(graph, "Gemm", "QGemm ignores it and computes something else")


def conv_bias_scale(graph: Graph) -> Iterator[Hit]:
    """The scale of a Conv's int32 bias is the product of the scales of its input and weight, or the Conv is not fused.

    Source: https://onnx.ai/onnx/operators/onnx__QLinearConv.html
    """
    for node, message in _bias_scale(graph, "Conv", f"{_VERSION} does not fuse the Conv"):
        if probes.holds(CONV_BIAS_SCALE) is False:
            yield node, message


def conv_bias_ignored(graph: Graph) -> Iterator[Hit]:
    """Where the runtime fuses a Conv whose int32 bias has another scale than the product of the scales of its input and
    weight, there is no such Conv: QLinearConv assumes that scale without looking.

    Source: https://onnx.ai/onnx/operators/onnx__QLinearConv.html
    """
    consequence = f"QLinearConv of {_VERSION} ignores it and computes something else"
    for node, message in _bias_scale(graph, "Conv", consequence):
        if probes.holds(CONV_BIAS_SCALE):
            yield node, message


def _bias_scale(graph: Graph, op_type: str, consequence: str) -> Iterator[Hit]:
    for node in graph.layers():
        if node.op_type != op_type or len(node.input) < 3:
            continue
        parts = [graph.dequantizer_of(t, frozenset()) for t in node.input[:3]]
        scales = [graph.value(q.scale) if q is not None else None for q in parts]
        data, weight, bias = scales
        if data is None or weight is None or bias is None or 0 in (data.size, weight.size, bias.size):
            continue
        wanted = data.ravel()[0] * weight.ravel()
        fits = bias.size in (1, wanted.size) or wanted.size == 1
        if not fits or not np.allclose(bias.ravel(), wanted, rtol=BIAS_TOLERANCE, atol=0.0):
            yield label(node), f"the scale of the bias is not that of the input times that of the weight: {consequence}"


def conv_result(graph: Graph) -> Iterator[Hit]:
    """The result of a Conv with quantized inputs is quantized too, and read in no other way: otherwise it is not fused,
    and slower than float32. A Relu or Clip between is absorbed where the quantizer's range ends where it does.

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc
    """
    for node in graph.layers():
        data, weight = (graph.dequantizer_of(t, frozenset()) for t in node.input[:2])
        if node.op_type != "Conv" or data is None or data.element not in EIGHT_BIT:
            continue
        if weight is not None and not result_fuses(graph, node.output[0]):
            yield label(node), "quantized inputs and a float result: not fused; quantize the result, or nothing"


def result_fuses(graph: Graph, tensor: str) -> bool:
    """True if a Conv with this result becomes a QLinearConv, as far as its result decides."""
    if _quantized_to(graph, tensor) is not None:
        return True
    uses = graph.uses.get(tensor, [])
    if len(uses) != 1 or tensor in graph.outputs or uses[0].node.op_type not in ("Relu", "Clip"):
        return False
    last = _quantized_to(graph, uses[0].node.output[0]) if uses[0].node.output else None
    return last is not None and _absorbs(graph, uses[0].node, last)


def _absorbs(graph: Graph, node: onnx.NodeProto, q: Quantizer) -> bool:
    """True if the values a quantizer can hold all pass a Relu or Clip unchanged."""
    scale = graph.value(q.scale)
    zero = graph.value(q.zero_point) if q.zero_point else np.zeros(1)
    if scale is None or zero is None or q.element not in LOWEST:
        return True  # cannot be told
    low = float((LOWEST[q.element] - zero.min()) * scale.max())
    high = float((HIGHEST[q.element] - zero.min()) * scale.max())
    if node.op_type == "Relu":
        return low >= 0
    limits = [graph.value(t) if t else None for t in (*node.input[1:3], "", "")[:2]]
    slack = float(scale.max())
    return (limits[0] is None or low >= float(limits[0].min()) - slack) and (
        limits[1] is None or high <= float(limits[1].max()) + slack
    )


def gemm_fusion(graph: Graph) -> Iterator[Hit]:
    """A Gemm with quantized inputs becomes QGemm where its weight has a zero point (needed since onnxruntime 1.29) and
    its bias, if any, is int32.

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc
    """
    for node in graph.layers():
        data, weight = (graph.dequantizer_of(t, frozenset()) for t in node.input[:2])
        if node.op_type != "Gemm" or data is None or weight is None or not {data.element, weight.element} <= EIGHT_BIT:
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        if not weight.zero_point and probes.holds(GEMM_WITHOUT_ZERO_POINT) is False:
            yield label(node), f"not fused by {_VERSION}, because {weight.name} has no zero point; add one of zeros"
        elif bias and graph.dequantizer_of(bias, frozenset()) is None and probes.holds(GEMM_FLOAT_BIAS) is False:
            yield (
                label(node),
                f"not fused by {_VERSION}, because the bias is float; store it as int32 behind a DequantizeLinear",
            )


def matmul_weight(graph: Graph) -> Iterator[Hit]:
    """A MatMul with a quantized activation has a quantized weight, of 8 bits: otherwise nothing is fused.

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc
    """
    for node in graph.layers():
        data, weight = graph.dequantizer_of(node.input[0]), graph.dequantizer_of(node.input[1])
        if node.op_type not in ("MatMul", "Gemm") or data is None or data.element not in EIGHT_BIT:
            continue
        if weight is None and idle(graph, data) and _quantized_to(graph, node.output[0]) is None:
            yield label(node), "the activation is quantized and the other input is not: computed in float32"
        elif weight is not None and weight.element in FOUR_BIT:
            yield (
                label(node),
                f"{type_name(weight.element)} weights behind quantized activations are unpacked at every run",
            )


def conv_weight(graph: Graph) -> Iterator[Hit]:
    """Weights of convolutions are dequantized at every run unless the convolution runs in int8: keep them in float32,
    or unfold the codes with Cast and Mul, which the session does once.

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/constant_folding.cc
    """
    for node in graph.layers():
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        data, weight = graph.dequantizer_of(node.input[0]), graph.dequantizer_of(node.input[1])
        if weight is None or not graph.is_constant(weight.data):
            continue
        if node.op_type == "ConvTranspose" or data is None or weight.element in FOUR_BIT or weight.block_size:
            yield label(node), f"its {type_name(weight.element)} weight is dequantized at every run"


def weight_only_layout(graph: Graph) -> Iterator[Hit]:
    """Weights in blocks become MatMulNBits as a [K, N] matrix with blocks of 16, 32, 64, ... along axis 0, read by
    a MatMul or plain Gemm as they are; through a Transpose or with transB they are dequantized at every run.

    Source: https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc
    """
    for node in graph.layers():
        weight = graph.dequantizer_of(node.input[1], MOVERS | {"Cast"})
        if node.op_type not in ("MatMul", "Gemm") or weight is None or not weight.block_size:
            continue
        if not graph.is_constant(weight.data) or graph.dequantizer_of(node.input[0]) is not None:
            continue
        size, rank = weight.block_size, len(graph.shape(weight.data) or (0, 0))
        if weight.result != node.input[1]:
            yield label(node), f"{weight.name} is not fused through {graph.makers[node.input[1]].op_type}; store [K, N]"
        elif node.op_type == "Gemm" and integer(node, "transB", 0):
            yield label(node), f"{weight.name} is not fused with transB; store the weight as [K, N]"
        elif weight.axis % max(rank, 1) != 0:
            yield label(node), f"{weight.name} has blocks along axis {weight.axis}; only those along axis 0 are fused"
        elif size < SMALLEST_BLOCK or size & (size - 1):
            yield label(node), f"{weight.name} has blocks of {size}; powers of two from {SMALLEST_BLOCK} on are fused"
        elif probes.holds(blocks_name(node.op_type, "int4" if weight.element in FOUR_BIT else "int8")) is False:
            kind = type_name(weight.element)
            yield label(node), f"{_VERSION} does not fuse {kind} blocks of {node.op_type}: dequantized at every run"


_SEEN_THROUGH = frozenset({"Transpose", "Identity"})


def _quantized_to(graph: Graph, tensor: str) -> Quantizer | None:
    """The QuantizeLinear that reads a tensor, where nothing else does."""
    uses = graph.uses.get(tensor, [])
    if len(uses) != 1 or tensor in graph.outputs or not uses[0].node.output:
        return None
    reader = graph.quantizer_of(uses[0].node.output[0], frozenset())
    return reader if reader is not None and reader.quantizes else None


def _once(graph: Graph, elements: frozenset[int], message: str) -> Iterator[Hit]:
    """One hit for all activations of these types."""
    found = [q for q in graph.quantizers if q.quantizes and q.element in elements and not graph.is_constant(q.data)]
    if found and UNDEFINED not in elements:
        yield found[0].name, f"{message} ({len(found)} of them)" if len(found) > 1 else message


def grouped_attention(graph: Graph) -> Iterator[Hit]:
    """Attention has as many heads of keys and values as of queries where onnxruntime pairs them wrongly: 1.23.0 did,
    1.23.2 to 1.32 do not.

    Source: https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    for node in graph.nodes:
        standard = node.op_type == "Attention" and node.domain in ("", "ai.onnx")
        if standard and _grouped(graph, node) and probes.holds(GROUPED_ATTENTION) is False:
            yield label(node), f"{_VERSION} gives the heads of queries other keys and values; use a newer one"


def _grouped(graph: Graph, node: onnx.NodeProto) -> bool:
    counts = {a.name: a.i for a in node.attribute}
    if "q_num_heads" in counts:
        return bool(counts["q_num_heads"] != counts.get("kv_num_heads"))
    shapes = [graph.shape(t) for t in node.input[:2]]
    heads = [shape[1] if shape is not None and len(shape) == 4 else None for shape in shapes]
    return None not in heads and heads[0] != heads[1]
