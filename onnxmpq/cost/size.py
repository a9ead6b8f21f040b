"""Exact sizes of weights under each scheme, and what Q/DQ nodes add to the file."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmpq.model import SHARED_BYTES, Model, Region
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import MARK, Format, Scheme, writes

NODE_BYTES = 90  # a node with its name, tensor names and attributes, beyond what its names take
PAIR_BYTES = 300  # Q and DQ with their scale and zero point, beyond what the tensor's name takes
ZERO_POINT_BYTES = 20  # of a layer's integer weights, beyond one per channel and the layer's name
BIAS_BYTES = 110  # the same around an int32 bias, without its scales
FLOAT_BYTES = 4
HALF_BYTES = 2
VALUE_INFO_HEADER = 3
MARK_BYTES = 6 + len(MARK)  # of a node's mark (`dialects/marks.py`), beyond the scheme's name


def region_bytes(region: Region, scheme: Scheme, weights: Mapping[tuple[str, str], QuantizedWeight]) -> int:
    """Bytes of the region's weights and of the nodes that unfold them and quantize its result."""
    names = len(region.name) + sum(len(t) for t in region.outputs)
    total = 0 if scheme.is_fp32 else len(region.nodes) * (MARK_BYTES + len(scheme.name))
    if region.layer is not None:
        if scheme.weight is None:
            total += (FLOAT_BYTES if scheme.half is None else HALF_BYTES) * region.layer.parameters
        else:
            keys = [w.key for w in region.layer.weights]
            total += sum(weights[k, scheme.weight.name].size_bytes + scheme.weight.unfolding_bytes(k) for k in keys)
            if scheme.reads in (Format.INT8, Format.SYMMETRIC_INT8) or scheme.dynamic:
                total += sum(ZERO_POINT_BYTES + len(region.name) + w.out_channels for w in region.layer.weights)
            if scheme.reads is Format.INT8 and region.layer.bias is not None and region.layer.bias_slot is not None:
                total += BIAS_BYTES + FLOAT_BYTES * region.layer.out_channels
    if scheme.reads.quantized or scheme.half is not None:
        total += NODE_BYTES
    if scheme.half is not None:
        total += NODE_BYTES + names
    if writes(scheme, region.op_type).quantized:
        total += PAIR_BYTES + 3 * names
    return total


def common_bytes(
    model: Model, region: Region, scheme: Scheme, weights: Mapping[tuple[str, str], QuantizedWeight]
) -> dict[str, float]:
    """The part of `region_bytes` that other layers of the same weight have in common with this one, by what is stored:
    once in the file (`dialects/sharing.py`). A table and the layer that multiplies with it share blocks, too."""
    found: dict[str, float] = {}
    if region.layer is None or scheme.dynamic or _needs_its_own(scheme):
        return found
    for place in region.layer.weights:
        first = model.shared_weights.get(place.key)
        if first is None:
            continue
        if scheme.weight is None:
            kind: str = scheme.half or "float32"
            stored = float(HALF_BYTES if scheme.half else FLOAT_BYTES) * place.parameters
        else:
            weight = weights[place.key, scheme.weight.name]
            kind = f"{scheme.weight.name}{' unsigned' if scheme.unsigned_weights else ''}"
            stored = float(-(-weight.codes.size * scheme.weight.storage_bits // 8))
        if stored >= SHARED_BYTES:
            found[f"{first} {kind}"] = stored
    return found


def _needs_its_own(scheme: Scheme) -> bool:
    """Codes of an int8 kernel that may saturate: see `Writer.int8_weight`."""
    weight = scheme.weight
    if weight is None or scheme.reads is not Format.INT8 or scheme.unsigned_weights:
        return False
    return weight.may_saturate and not weight.saturation_free


def base_bytes(model: Model) -> int:
    """Bytes of the prepared model that are not weights of layers."""
    shapes = model.structure.graph.value_info  # a rewrite drops them
    described: int = sum(v.ByteSize() + VALUE_INFO_HEADER for v in shapes)
    tensors = {w.tensor: w.parameters for r in model.layers for w in r.params.weights}
    return model.prepared_bytes - described - FLOAT_BYTES * sum(tensors.values())
