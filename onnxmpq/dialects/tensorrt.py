"""The TensorRT dialect: explicit quantization within what TensorRT's documentation allows.

Rules (https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html):
symmetric only; int4 for weights of matrix products only, in blocks of 64 or 128 along one of the last two axes,
positive scales; convolutions in 2D or 3D; weights are constants.
"""

from __future__ import annotations

from onnxmpq.dialects import explicit
from onnxmpq.model import Region
from onnxmpq.schemes import Format, Scheme

BLOCKS = (64, 128)
CONV_RANKS = (4, 5)
FP8_CONV_MULTIPLE = 16
"""Channels of a convolution in fp8 come in multiples of this, as Model-Optimizer also has it; none are grouped."""
FEWEST_IN_8_BITS = 16
"""Inputs and outputs of a product in 8 bits: with fewer, NVIDIA's Model-Optimizer says, it runs slower than in 16."""

rewrite = explicit.rewrite


def supports(region: Region, scheme: Scheme, opset: int) -> bool:
    """Whether TensorRT takes the scheme for the region."""
    if not explicit.spells(region, scheme, opset):
        return False
    layer, weight = region.layer, scheme.weight
    if layer is None or scheme.is_float:
        return True
    if region.op_type in ("Conv", "ConvTranspose"):
        if len(layer.weight_shape) not in CONV_RANKS:
            return False
        if scheme.reads is Format.FP8:
            channels = (layer.out_channels, layer.weight_shape[1])
            return layer.groups == 1 and all(c % FP8_CONV_MULTIPLE == 0 for c in channels)
    elif scheme.reads.quantized and min(layer.fan_in, layer.out_channels) < FEWEST_IN_8_BITS:
        return False
    if weight is not None and weight.bits <= 4:
        return weight.block in BLOCKS and layer.fan_in % weight.block == 0
    return True
