"""Histograms of activations, each taken from the cache if it is there.

Entries are single tensors: what is observed of one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model
from onnxmpq.progress import Tick
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.ranges.observe import Observation, observe


def observed(context: Context, model: Model, feeds: Feeds, tensors: Sequence[str], tick: Tick) -> Observation:
    """`observe`: histograms by tensor. tick: gets tensors done, once for each sample."""
    common = content_hash("histogram", programs(), model_hash(model), feeds_hash(feeds))
    keys = {t: content_hash(common, t) for t in tensors}
    found = {t: entry for t, key in keys.items() if (entry := context.cache.get(key)) is not None}
    missing = [t for t in tensors if t not in found]
    tick(len(found) * len(feeds))
    fresh = Observation({}, {})
    if missing:
        fresh = observe(model, feeds, missing, threads=context.threads, tick=tick)
    for tensor in missing:
        context.cache.put(keys[tensor], _of_histogram(fresh.histograms[tensor], fresh.shapes[tensor]))
    context.cache.count("activation ranges", len(found), len(tensors))
    known = {t: _to_histogram(entry) for t, entry in found.items()}
    histograms = {**{t: h for t, (h, _) in known.items()}, **fresh.histograms}
    shapes = {**{t: s for t, (_, s) in known.items()}, **fresh.shapes}
    return Observation({t: histograms[t] for t in tensors}, {t: shapes[t] for t in tensors})


def _of_histogram(histogram: Histogram, shape: tuple[int, ...]) -> Archive:
    ends = np.array([histogram.limit, histogram.low, histogram.high, histogram.unbounded])
    return Archive({"counts": histogram.counts, "ends": ends}, list(shape))


def _to_histogram(entry: Archive) -> tuple[Histogram, tuple[int, ...]]:
    limit, low, high, unbounded = map(float, entry.arrays["ends"])
    counts = np.asarray(entry.arrays["counts"], np.int64)
    return Histogram.of(counts, limit, low, high, unbounded=bool(unbounded)), tuple(entry.meta)
