"""The bound on pairs under which a layer's weights are rounded."""

from __future__ import annotations

from onnxmpq.model import LayerWeight, Region
from onnxmpq.rounding import PairBound, WeightFormat
from onnxmpq.runtimes import kernel_columns


def pair_bound(region: Region, place: LayerWeight, weight_format: WeightFormat) -> PairBound | None:
    """For one of a region's weights in a format without saturation, for any activation codes; None for other formats.

    Where a Clip or a Sigmoid bounds the activation, its quantizer spreads that range over all 256 codes, so that
    smaller codes are nothing to count on.
    """
    if not weight_format.saturation_free:
        return None
    return PairBound.of(kernel_columns(region.op_type, place))
