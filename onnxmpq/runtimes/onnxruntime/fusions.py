"""Operators by which onnxruntime's optimised graph shows that a region is computed in its scheme."""

from __future__ import annotations

from onnxmpq.model import Region
from onnxmpq.schemes import FP32, Format, Scheme

LAYERS_IN_INT8 = ("QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm")
WEIGHT_ONLY = ("MatMulNBits",)
BLOCK_LOOKUPS = ("GatherBlockQuantized",)
DYNAMIC = ("DynamicQuantizeLSTM",)
OTHERS_IN_INT8: dict[str, tuple[str, ...]] = {
    "Add": ("QLinearAdd",),
    "Mul": ("QLinearMul",),
    "Concat": ("QLinearConcat",),
    "AveragePool": ("QLinearAveragePool",),
    "GlobalAveragePool": ("QLinearGlobalAveragePool",),
    "Sigmoid": ("QLinearSigmoid",),
    "LeakyRelu": ("QLinearLeakyRelu",),
    "Softmax": ("QLinearSoftmax",),
    "MatMul": ("QLinearMatMul", "MatMulIntegerToFloat"),
}
"""Of regions without weights."""


def fusions(region: Region, scheme: Scheme) -> tuple[str, ...]:
    """Operators of which the optimised graph must have one for the region; empty where any kernel will do."""
    if scheme.kernel == FP32:
        return ()
    if region.layer is None:
        return OTHERS_IN_INT8.get(region.op_type, ())
    if scheme.dynamic:
        return DYNAMIC
    if scheme.reads is Format.INT8:
        return LAYERS_IN_INT8
    if not scheme.weight_only:
        return ()
    return BLOCK_LOOKUPS if region.operator.looks_up else WEIGHT_ONLY
