"""Factors worth trying: from weights alone, or from weights and the range of what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxmpq.execution import run_samples
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.rescale.channels import Channels
from onnxmpq.rounding import DoubleArray, FloatArray, cross_layer_factors, smoothing_factors
from onnxmpq.statistics import finite


@dataclass(frozen=True, eq=False)
class Extent:
    """Extents of the channels, float32 [count] each.

    low, high: the range of what layers read, 0 included. consumed, produced: the largest |weight| that reads the
    channel, and that makes it.
    """

    low: FloatArray
    high: FloatArray
    consumed: FloatArray
    produced: FloatArray

    @property
    def activations(self) -> FloatArray:
        """float32 [count]: the largest |x|."""
        return np.maximum(-self.low, self.high)


def measure_extent(model: Model, channels: Channels, feeds: Feeds, *, threads: int = 1) -> Extent:
    """Ranges of activations on the samples, of which `threads` run side by side on one thread each, and of the
    weights."""
    count = channels.count
    low, high = (np.zeros(count + 1, np.float32) for _ in range(2))
    heads = {n.name: n for n in model.structure.graph.node}
    tensors = {heads[name].input[0]: carried for name, carried in channels.reads.items()}
    for outputs in run_samples(model.store, feeds, list(tensors), threads=threads):
        for carried, values in zip(tensors.values(), outputs, strict=True):
            found = finite(values)
            rest = tuple(a for a in range(found.ndim) if a not in carried.axes)
            np.maximum.at(high, carried.ids, found.max(axis=rest, initial=0).ravel())
            np.minimum.at(low, carried.ids, found.min(axis=rest, initial=0).ravel())
    weights = {consumes: np.zeros(count + 1, np.float32) for consumes in (True, False)}
    for role in channels.roles:
        values = np.abs(model.store.array(role.constant))
        if role.ids.ndim > 1:  # no bias
            np.maximum.at(weights[role.consumes], np.broadcast_to(role.ids, values.shape), values)
    return Extent(low[:count], high[:count], weights[True][:count], weights[False][:count])


def _equalised(extent: Extent, channels: Channels) -> FloatArray:
    return np.where(channels.normalised, np.float32(1), cross_layer_factors(extent.produced, extent.consumed))


def _smoothed(strength: float) -> Candidate:
    return lambda extent, channels: smoothing_factors(extent.activations, extent.consumed, strength)


Candidate = Callable[[Extent, Channels], FloatArray]
CANDIDATES: Mapping[str, tuple[str, Candidate]] = {
    "equalised": ("equalisation", _equalised),
    "smoothed 0.25": ("smoothquant", _smoothed(0.25)),
}
"""Name -> (the technique it belongs to, factors float32 [count]).

Equalisation (Nagel et al. 2019, arXiv 1906.04721) looks at weights alone, so it leaves what LayerNormalization makes as
it is; smoothing (SmoothQuant, arXiv 2211.10438) weighs activations against weights by its strength.
"""


def candidate_factors(name: str, extent: Extent, channels: Channels) -> FloatArray:
    """float32 [count]: a candidate's factors, with a geometric mean of 1 among those that meet in a tensor."""
    factors, groups = CANDIDATES[name][1](extent, channels), channels.groups
    logs = np.log(factors.astype(np.float64))
    means = np.bincount(groups, logs) / np.bincount(groups)
    levelled: DoubleArray = np.exp(logs - means[groups])
    return levelled.astype(np.float32)
