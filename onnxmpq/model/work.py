"""Work of a region, from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxmpq.model.types import Region


def multiply_accumulates(region: Region, shape_of: Callable[[str], Sequence[int]]) -> int:
    """Of one run at these shapes."""
    if region.layer is not None:
        given, made = (shape_of(tensors[0]) if tensors else () for tensors in (region.inputs, region.outputs))
        return region.operator.macs(region.layer, given, made)
    if region.op_type == "MatMul":
        return math.prod(shape_of(region.outputs[0])) * int(shape_of(region.inputs[0])[-1])
    return 0
