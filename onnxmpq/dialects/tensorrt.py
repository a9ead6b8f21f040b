"""The TensorRT dialect: explicit quantization within what TensorRT's documentation allows.

Rules (https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html):
symmetric only; int4 for weights of matrix products only, in blocks of 64 or 128 along one of the last two axes,
positive scales; convolutions in 2D or 3D; weights are constants.
"""

from __future__ import annotations

from onnxmpq.dialects import explicit
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.schemes import Format, Scheme

BLOCKS = (64, 128)
CONV_RANKS = (4, 5)
FP8_CONV_MULTIPLE = 16
"""Channels of a convolution in fp8 come in multiples of this, as Model-Optimizer also has it; none are grouped."""
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
FEWEST_IN_8_BITS = 16
"""Inputs and outputs of a product in 8 bits: with fewer, NVIDIA's Model-Optimizer says, it runs slower than in 16."""

rewrite = explicit.rewrite


def supports(region: Region, scheme: Scheme, opset: int) -> bool:
    """True where TensorRT takes the scheme for the region."""
    return explicit.spells(region, scheme, opset) and not forbids(region, scheme)


def in_float32(model: Model) -> dict[str, str]:
    """Regions that no scheme with 16-bit results may have, and why.

    A float32 Cast of a 16-bit tensor in front of a recurrent layer, moved or not, ends the build of TensorRT-RTX 1.7
    with an error of its own about the layer's loop (docs/tensorrt.md, recurrent layers).
    """
    recurrent = {t for r in model.regions if r.op_type in RECURRENT for t in r.inputs}
    found: dict[str, str] = {}
    for region in reversed(model.regions):  # readers first
        if not recurrent.isdisjoint(region.outputs):
            found[region.name] = "a 16-bit input of a recurrent layer"
            if region.kind is RegionKind.PASSTHROUGH:
                recurrent.update(region.inputs)
    return found


def forbids(region: Region, scheme: Scheme) -> str:
    """The property of the region for which TensorRT refuses the scheme; empty where it takes it."""
    layer, weight = region.layer, scheme.weight
    if layer is None or scheme.is_fp32:
        return ""
    if region.operator.convolves:
        if len(layer.weight_shape) not in CONV_RANKS:
            return "convolutions in other than 2 or 3 dimensions"
        channels = (layer.out_channels, layer.weight_shape[1])
        if scheme.reads is Format.FP8 and (layer.groups > 1 or any(c % FP8_CONV_MULTIPLE for c in channels)):
            return f"fp8 convolutions with groups, or channels that are no multiple of {FP8_CONV_MULTIPLE}"
    elif scheme.reads.quantized and min(layer.fan_in, layer.out_channels) < FEWEST_IN_8_BITS:
        return f"products in 8 bits of fewer than {FEWEST_IN_8_BITS} inputs or outputs"
    if weight is not None and weight.blocked and weight.bits > 4:
        return f"weights of {weight.bits} bits in blocks"
    if weight is not None and weight.bits <= 4:
        block = weight.block_width(layer.fan_in)
        if not weight.blocked or block not in BLOCKS or layer.fan_in % block:
            return f"{layer.fan_in} inputs, no multiple of the block of {block}"
    return ""
