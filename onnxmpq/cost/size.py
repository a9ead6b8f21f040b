"""Exact sizes of weights under each scheme, and what Q/DQ nodes add to the file."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmpq.model import Model, Region
from onnxmpq.rounding.types import QuantizedWeight
from onnxmpq.schemes import Scheme, writes

NODE_BYTES = 90  # a node with its name, tensor names and attributes, beyond what its names take
FLOAT_BYTES = 4
HALF_BYTES = 2


def region_bytes(region: Region, scheme: Scheme, weights: Mapping[tuple[str, str], QuantizedWeight]) -> int:
    """Bytes of the region's weights and of the nodes that unfold them and quantize its result."""
    names = len(region.name) + sum(len(t) for t in region.outputs)
    total = 0
    if region.layer is not None:
        total = (FLOAT_BYTES if scheme.half is None else HALF_BYTES) * region.layer.parameters
        if scheme.weight is not None:
            nodes = {"channel": 2, "block": 1, "dual": 6, "fp8": 1, "fp8_dual": 3}[scheme.weight.kind]
            total = weights[region.name, scheme.weight.name].size_bytes + nodes * (NODE_BYTES + 3 * len(region.name))
    if scheme.reads.quantized or scheme.half is not None:
        total += NODE_BYTES
    if scheme.half is not None:
        total += NODE_BYTES + names
    if writes(scheme, region.op_type).quantized:
        total += 2 * (NODE_BYTES + 2 * names)
    return total


def base_bytes(model: Model) -> int:
    """Bytes of the prepared model that are not weights of layers."""
    return model.prepared_bytes - sum(FLOAT_BYTES * r.params.parameters for r in model.layers)
