"""Work of a region, from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxmpq.model.types import Region


def multiply_accumulates(region: Region, shape_of: Callable[[str], Sequence[int]]) -> int:
    """Of one run at these shapes. Every output element of a layer sums over one row of the weight matrix."""
    if region.op_type == "Gather":
        return 0
    if region.layer is not None:
        transposed = region.op_type == "ConvTranspose"  # there every input element meets one row
        counted = region.inputs[0] if transposed else region.outputs[0]
        return math.prod(shape_of(counted)) * region.layer.fan_in
    if region.op_type == "MatMul":
        return math.prod(shape_of(region.outputs[0])) * int(shape_of(region.inputs[0])[-1])
    return 0
