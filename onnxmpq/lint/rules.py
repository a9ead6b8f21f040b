"""The table of rules. A rule is a function from `Graph` to hits, and a row here."""

from __future__ import annotations

from onnxmpq.lint import common, onnxruntime_cuda, tensorrt
from onnxmpq.lint import onnxruntime as ort
from onnxmpq.lint.overflow import overflow
from onnxmpq.lint.types import Rule, Severity

_ERROR: Severity = "error"
_WARNING: Severity = "warning"
_EVERYWHERE: dict[str, Severity] = dict.fromkeys(("tensorrt", "onnxruntime", "onnxruntime-cuda", "portable"), _ERROR)

RULES: tuple[Rule, ...] = (
    Rule("valid", common.valid, _EVERYWHERE),
    Rule("opset", common.opset, _EVERYWHERE),
    Rule("standard-operators", common.standard_operators, {"portable": _ERROR}),
    Rule("finite-scale", common.finite_scale, _EVERYWHERE),
    Rule("scale-count", common.scale_count, _EVERYWHERE),
    Rule("channel-axis", common.channel_axis, {"tensorrt": _WARNING, "onnxruntime": _ERROR}),
    Rule("double-rounding", common.double_rounding, {"tensorrt": _WARNING, "onnxruntime": _WARNING}),
    Rule("symmetric", tensorrt.symmetric, {"tensorrt": _ERROR}),
    Rule("unsigned", tensorrt.unsigned, {"tensorrt": _ERROR}),
    Rule("quantized-type", tensorrt.quantized_type, {"tensorrt": _ERROR}),
    Rule("positive-scale", tensorrt.positive_scale, {"tensorrt": _ERROR}),
    Rule("constant-scale", tensorrt.constant_scale, {"tensorrt": _WARNING}),
    Rule("scale-type", tensorrt.scale_type, {"tensorrt": _WARNING}),
    Rule("activations-per-tensor", tensorrt.activations_per_tensor, {"tensorrt": _WARNING}),
    Rule("int4-weights-only", tensorrt.int4_weights_only, {"tensorrt": _ERROR}),
    Rule("int4-blocks", tensorrt.int4_blocks, {"tensorrt": _ERROR}),
    Rule("int4-readers", tensorrt.int4_readers, {"tensorrt": _ERROR}),
    Rule("int4-even", tensorrt.int4_even, {"tensorrt": _ERROR}),
    Rule("int4-weight-only", tensorrt.int4_weight_only, {"tensorrt": _WARNING}),
    Rule("int4-step", tensorrt.int4_step, {"tensorrt": _ERROR}),
    Rule("float-bias", tensorrt.float_bias, {"tensorrt": _ERROR}),
    Rule("pairs", tensorrt.pairs, {"tensorrt": _ERROR}),
    Rule("quantized-ends", tensorrt.quantized_ends, {"tensorrt": _WARNING}),
    Rule("whole-layers", tensorrt.whole_layers, {"tensorrt": _WARNING}),
    Rule("one-type", tensorrt.one_type, {"tensorrt": _ERROR}),
    Rule("fp8-operators", tensorrt.fp8_operators, {"tensorrt": _ERROR}),
    Rule("fp8-convolutions", tensorrt.fp8_convolutions, {"tensorrt": _WARNING}),
    Rule("narrow-groups", tensorrt.narrow_groups, {"tensorrt": _WARNING}),
    Rule("small-products", tensorrt.small_products, {"tensorrt": _WARNING}),
    Rule("residual-add", tensorrt.residual_add, {"tensorrt": _WARNING}),
    Rule("split-add", tensorrt.split_add, {"tensorrt": _WARNING}),
    Rule("unsupported-operators", tensorrt.unsupported_operators, {"tensorrt": _ERROR}),
    Rule("float8-fusion", ort.float8_fusion, {"onnxruntime": _ERROR}),
    Rule("float8-relu", ort.float8_relu, {"onnxruntime": _ERROR}),
    Rule("float8-speed", ort.float8_speed, {"onnxruntime": _WARNING}),
    Rule("gemm-bias-scale", ort.gemm_bias_scale, {"onnxruntime": _ERROR}),
    Rule("conv-bias-scale", ort.conv_bias_scale, {"onnxruntime": _WARNING}),
    Rule("conv-bias-ignored", ort.conv_bias_ignored, {"onnxruntime": _ERROR}),
    Rule("signed-activations", ort.signed_activations, {"onnxruntime": _WARNING}),
    Rule("wide-activations", ort.wide_activations, {"onnxruntime": _WARNING}),
    Rule("conv-result", ort.conv_result, {"onnxruntime": _WARNING}),
    Rule("conv-weight", ort.conv_weight, {"onnxruntime": _WARNING}),
    Rule("gemm-fusion", ort.gemm_fusion, {"onnxruntime": _WARNING}),
    Rule("matmul-weight", ort.matmul_weight, {"onnxruntime": _WARNING}),
    Rule("weight-only-layout", ort.weight_only_layout, {"onnxruntime": _WARNING}),
    Rule("grouped-attention", ort.grouped_attention, {"onnxruntime": _ERROR}),
    Rule("overflow", overflow, {"onnxruntime": _WARNING}),
    Rule("executed-pairs", onnxruntime_cuda.executed_pairs, {"onnxruntime-cuda": _WARNING}),
)
DIALECTS: tuple[str, ...] = tuple(_EVERYWHERE)
