"""Wider ranges where the samples were made up: they excite deep features less than what a model was trained on.

Measured on squeezenet1.1 and resnet20 (docs/calibration.md): near the input real maxima are 0.7 to 1.0 times those of
made-up pictures, near the output 1.3 to 2.0 times. Values that are cut off cost far more than one bit less of
resolution, so the range grows evenly with depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxmpq.ranges.params import QuantParams

DEEPEST = 2.0  # times the range, at the last node
_BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Clip"})
"""Operators with ends of their own, which made-up samples reach as well as real ones."""


def headroom(proto: onnx.ModelProto, tensors: Sequence[str]) -> dict[str, float]:
    """Tensor -> how many times wider its range should be than made-up samples ask for; 1 for inputs of the graph."""
    nodes = proto.graph.node
    producers = {t: (place, node) for place, node in enumerate(nodes, start=1) for t in node.output}
    factors = dict.fromkeys(tensors, 1.0)
    for tensor in tensors:
        place, node = producers.get(tensor, (0, None))
        if node is not None and node.op_type not in _BOUNDED:
            factors[tensor] = 1.0 + (DEEPEST - 1.0) * place / len(nodes)
    return factors


def widened(params: QuantParams, factor: float) -> QuantParams:
    """The same zero point, a range `factor` times as wide."""
    return params if factor == 1.0 else replace(params, scale=float(np.float32(params.scale * factor)))
