"""Extents of channels, taken from the cache if they are there."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model
from onnxmpq.rescale.channels import Channels
from onnxmpq.rescale.factors import Extent, measure_extent

_PARTS = tuple(f.name for f in fields(Extent))


def reused_extent(context: Context, model: Model, channels: Channels, feeds: Feeds) -> Extent:
    """`measure_extent`. channels: those that `find_channels` finds in the model."""
    key = content_hash("extent", programs(), model_hash(model), feeds_hash(feeds))

    def read(entry: Archive) -> Extent:
        found = {name: np.asarray(entry.array(name, np.float32, channels.count), np.float32) for name in _PARTS}
        if not all(np.isfinite(values).all() for values in found.values()):
            raise ValueError("extents that are not finite")
        return Extent(**found)

    known = context.cache.get(key, read)
    if known is None:
        known = measure_extent(model, channels, feeds, threads=context.threads)
        context.cache.put(key, Archive({name: getattr(known, name) for name in _PARTS}))
    return known
