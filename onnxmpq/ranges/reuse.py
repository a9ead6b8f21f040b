"""Histograms of activations, each taken from the cache if it is there.

Entries are single tensors: what is observed of one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive, is_whole
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model
from onnxmpq.progress import Tick
from onnxmpq.ranges.histogram import BINS, Histogram
from onnxmpq.ranges.observe import Observation, observe


def observed(context: Context, model: Model, feeds: Feeds, tensors: Sequence[str], tick: Tick) -> Observation:
    """`observe`: histograms by tensor. tick: gets tensors done, once for each sample."""
    common = content_hash("histogram", programs(), model_hash(model), feeds_hash(feeds))
    keys = {t: content_hash(common, t) for t in tensors}
    found = {t: known for t, key in keys.items() if (known := context.cache.get(key, _to_histogram)) is not None}
    missing = [t for t in tensors if t not in found]
    tick(len(found) * len(feeds))
    fresh = Observation({}, {})
    if missing:
        fresh = observe(model, feeds, missing, threads=context.threads, tick=tick)
    for tensor in missing:
        context.cache.put(keys[tensor], _of_histogram(fresh.histograms[tensor], fresh.shapes[tensor]))
    context.cache.count("activation ranges", len(found), len(tensors))
    histograms = {**{t: h for t, (h, _) in found.items()}, **fresh.histograms}
    shapes = {**{t: s for t, (_, s) in found.items()}, **fresh.shapes}
    return Observation({t: histograms[t] for t in tensors}, {t: shapes[t] for t in tensors})


def _of_histogram(histogram: Histogram, shape: tuple[int, ...]) -> Archive:
    ends = [histogram.limit, histogram.low, histogram.high]
    held = ends if np.isfinite(ends).all() else None
    return Archive({"counts": histogram.counts}, {"ends": held, "unbounded": histogram.unbounded, "shape": list(shape)})


def _to_histogram(entry: Archive) -> tuple[Histogram, tuple[int, ...]]:
    """Raises ValueError, KeyError or TypeError for anything else than `_of_histogram` makes."""
    meta, counts = entry.meta, np.asarray(entry.array("counts", np.int64, BINS), np.int64)
    limit, low, high = map(float, (0.0, np.inf, -np.inf) if meta["ends"] is None else meta["ends"])
    shape = tuple(meta["shape"])
    if not isinstance(meta["unbounded"], bool) or not all(is_whole(n) and n >= 0 for n in shape):
        raise ValueError("it is not of a tensor")
    return Histogram.of(counts, limit, low, high, unbounded=meta["unbounded"]), shape
