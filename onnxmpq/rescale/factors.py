"""Factors worth trying: from weights alone, or from weights and the range of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model
from onnxmpq.ranges import with_outputs
from onnxmpq.rescale.channels import Channels, Ids
from onnxmpq.rounding import cross_layer_factors, smoothing_factors
from onnxmpq.rounding.types import DoubleArray, FloatArray
from onnxmpq.runtime import SessionSettings, open_session, run

SWEEPS = 10


@dataclass(frozen=True, eq=False)
class Extent:
    """What is known of the channels, float32 [count] each: the largest |x| that layers read, the largest weight that
    reads x, and the largest that makes it."""

    low: FloatArray
    high: FloatArray
    consumed: FloatArray
    produced: FloatArray

    @property
    def activations(self) -> FloatArray:
        return np.maximum(-self.low, self.high)


def measure_extent(model: Model, channels: Channels, feeds: Feeds, *, threads: int = 1) -> Extent:
    """Ranges of activations on the samples, and of the weights."""
    low, high = (np.zeros(channels.count + 1, np.float32) for _ in range(2))
    heads = {n.name: n for n in model.proto.graph.node}
    tensors = {heads[name].input[0]: carried for name, carried in channels.reads.items()}
    session = open_session(with_outputs(model.proto, list(tensors)), SessionSettings(threads=threads))
    for inputs in feeds.batches(1):
        for carried, values in zip(tensors.values(), run(session, inputs, list(tensors)), strict=True):
            found = np.asarray(values, np.float32)
            rest = tuple(a for a in range(found.ndim) if a not in carried.axes)
            np.maximum.at(high, carried.ids, found.max(axis=rest).ravel())
            np.minimum.at(low, carried.ids, found.min(axis=rest).ravel())
    constants = {t.name: t for t in model.proto.graph.initializer}
    weights = {True: np.zeros(channels.count + 1, np.float32), False: np.zeros(channels.count + 1, np.float32)}
    for role in channels.roles:
        values = np.abs(onnx.numpy_helper.to_array(constants[role.constant]))
        if role.ids.ndim > 1:
            np.maximum.at(weights[role.consumes], np.broadcast_to(role.ids, values.shape), values)
    count = channels.count
    return Extent(low[:count], high[:count], weights[True][:count], weights[False][:count])


def equalizing(extent: Extent, channels: Channels) -> FloatArray:
    return level(cross_layer_factors(extent.produced, extent.consumed), channels)


def smoothing(extent: Extent, channels: Channels, strength: float) -> FloatArray:
    return level(smoothing_factors(extent.activations, extent.consumed, strength), channels)


def level(factors: FloatArray, channels: Channels) -> FloatArray:
    """The factors with a geometric mean of 1 in each group."""
    groups = channels.groups
    logs = np.log(factors.astype(np.float64))
    means = np.bincount(groups, logs) / np.bincount(groups)
    return np.exp(logs - means[groups]).astype(np.float32)
