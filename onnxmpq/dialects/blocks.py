"""Kernels of onnxruntime that read weights in blocks as they are stored: MatMulNBits and GatherBlockQuantized.

Both hold codes as uint8, two of 4 bits in a byte, low bits first, with a zero point per block, or an implied one in the
middle of the range. So a table that an embedding and the last layer share is one tensor.
Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmpq.model import Layer, Region, Spelling
from onnxmpq.rounding import AffineBlock, PerBlock, QuantizedWeight
from onnxmpq.schemes import BLOCK_SIZES, ROUNDS_TO_INT8, Scheme

OP_TYPE, DOMAIN = "MatMulNBits", "com.microsoft"
CODES, SCALES, ZERO_POINTS = 1, 2, 3
"""Inputs of MatMulNBits."""
_BIAS = 5
_MULTIPLIES = ("MatMul", "Gemm")


def offers(region: Region, scheme: Scheme) -> bool:
    """True where such a kernel computes the region."""
    layer, weight = region.layer, scheme.weight
    if layer is None or not _whole_blocks(layer, weight):
        return False
    if region.op_type == "Gather":  # a lookup has no level; one of the schemes is enough
        return scheme.accuracy_level == ROUNDS_TO_INT8 and not _ends_in_half_a_byte(layer, scheme)
    return reads_blocks(region, scheme)


def reads_blocks(region: Region, scheme: Scheme) -> bool:
    """True where MatMulNBits computes the region with weights in blocks of the scheme."""
    layer = region.layer
    if layer is None or not _whole_blocks(layer, scheme.weight):
        return False
    return region.op_type in _MULTIPLIES and not layer.storage_only


def _ends_in_half_a_byte(layer: Layer, scheme: Scheme) -> bool:
    """True where a row has an odd number of zero points: onnxruntime 1.23 begins the next row in the same byte, 1.32
    in the next one."""
    weight = scheme.weight
    return weight is not None and weight.shifted and weight.blocks(layer.fan_in) % 2 == 1


def _whole_blocks(layer: Layer, weight: object) -> bool:
    return (
        isinstance(weight, PerBlock | AffineBlock) and weight.block in BLOCK_SIZES and layer.fan_in % weight.block == 0
    )


def multiplies(region: Region, scheme: Scheme, weights: Sequence[QuantizedWeight]) -> Spelling:
    """The region's head node as MatMulNBits; it adds the bias of a Gemm itself."""
    [weight], layer = weights, region.params
    attributes = {
        "K": layer.fan_in,
        "N": layer.out_channels,
        "bits": weight.format.storage_bits,
        "block_size": weight.block,
        "accuracy_level": int(scheme.accuracy_level or 0),
    }
    moved: Mapping[int, int] = {_BIAS: layer.bias_slot} if layer.bias and layer.bias_slot is not None else {}
    constants: dict[int, NDArray[np.generic]] = {CODES: codes(weight), SCALES: weight.scales}
    if (packed := zero_points(weight)) is not None:
        constants[ZERO_POINTS] = packed
    return Spelling(constants, OP_TYPE, DOMAIN, attributes, moved)


def zero_points(weight: QuantizedWeight) -> NDArray[np.uint8] | None:
    """uint8 [outputs, bytes of a row]; None where they are implied."""
    found = weight.grid.zero_points
    if found is None:
        return None
    even = np.pad(found, ((0, 0), (0, found.shape[1] % 2)))
    return even[:, ::2] | even[:, 1::2] << np.uint8(4)


def codes(weight: QuantizedWeight) -> NDArray[np.uint8]:
    """uint8 [outputs, blocks, bytes of a block]."""
    bits = weight.format.storage_bits
    wide = weight.codes.astype(np.int16).reshape(len(weight.codes), -1, weight.block)
    zeros = weight.grid.zero_points
    by_block = (wide + (1 << bits - 1 if zeros is None else zeros[..., None])).astype(np.uint8)
    return by_block if bits == 8 else by_block[..., ::2] | by_block[..., 1::2] << np.uint8(4)


def lookup_attributes(weight: QuantizedWeight) -> dict[str, int]:
    """Of GatherBlockQuantized on a table [rows, bytes of a row] of uint8."""
    return {"gather_axis": 0, "quantize_axis": 1, "block_size": weight.block, "bits": weight.format.storage_bits}
