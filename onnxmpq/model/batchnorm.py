"""Statistics of the training data in BatchNormalization nodes: mean and deviation of their outputs per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.model.store import WeightStore


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Per channel, float64 [C]. In training a BatchNorm's output has mean beta and deviation |gamma|."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def batchnorm_statistics(store: WeightStore) -> dict[str, ChannelStatistics]:
    """Output tensor of every inference-mode BatchNormalization with constant parameters -> its statistics."""
    found = {}
    for node in store.structure.graph.node:
        if node.op_type != "BatchNormalization" or any(a.name == "training_mode" and a.i for a in node.attribute):
            continue
        gamma, beta = node.input[1:3]
        if gamma in store and beta in store:
            mean, deviation = (store.array(t).astype(np.float64) for t in (beta, gamma))
            found[node.output[0]] = ChannelStatistics(mean, np.abs(deviation))
    return found
