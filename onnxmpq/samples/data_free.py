"""No calibration data: the range of the model's pictures, judged by its BatchNorm statistics.

A BatchNorm's parameters say what mean and deviation each channel had in training (Nagel et al., Data-free quantization
through weight equalization and bias correction, ICCV 2019, take ranges from them). Made-up pictures in the right range
come close to those statistics at every depth, in a wrong range they do not, so the shipped picture recipes are tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError
from onnxmpq.execution import run_samples
from onnxmpq.feeds import Feeds, ImageRecipe, InputSpec, available_recipes, synthesize
from onnxmpq.model import ChannelStatistics, Model

SAMPLES = 8
Float = NDArray[np.float64]


def recipe_by_batchnorm(model: Model, specs: Sequence[InputSpec], seed: int, threads: int) -> tuple[str, str] | None:
    """The recipe whose made-up pictures fit best, and why; None without BatchNorm, or where no recipe fits."""
    misfits: dict[str, float] = {}
    for recipe in available_recipes() if model.batchnorm else ():
        if not isinstance(recipe, ImageRecipe):
            continue
        try:
            feeds = synthesize(specs, SAMPLES, seed, recipe=recipe)
        except CalibrationError:
            continue  # made for another kind of input
        misfits[recipe.name] = misfit(model, feeds, threads)
    if not misfits:
        return None
    ranked = sorted(misfits, key=lambda name: misfits[name])
    listed = ", ".join(f"{name} {misfits[name]:.3g}" for name in ranked)
    return ranked[0], f"recipe {ranked[0]} fits the model's {len(model.batchnorm)} BatchNorms best (in nats: {listed})"


def misfit(model: Model, feeds: Feeds, threads: int) -> float:
    """Divergence in nats of normal distributions with the feeds' channel statistics from those that BatchNorm
    remembers: median over channels, mean over BatchNorms."""
    tensors = list(model.batchnorm)
    sums: dict[str, list[Float]] = {t: [] for t in tensors}
    for values in run_samples(model.store, feeds, tensors, threads=threads):
        for tensor, value in zip(tensors, values, strict=True):
            channels = np.moveaxis(np.asarray(value, np.float64), 1, 0).reshape(value.shape[1], -1)
            sums[tensor].append(np.stack([channels.mean(axis=1), np.square(channels).mean(axis=1)]))
    return float(np.mean([_divergence(np.mean(sums[t], axis=0), model.batchnorm[t]) for t in tensors]))


def _divergence(moments: Float, known: ChannelStatistics) -> float:
    """moments: mean and mean square by channel, [2, C]. Channels that never varied in training do not count."""
    alive = known.deviation > 1e-3 * known.deviation.max()
    mean, square = moments[:, alive]
    expected, variance = known.mean[alive], np.square(known.deviation[alive])
    ratio = np.maximum(square - mean**2, 1e-12 * variance) / variance
    return float(np.median((ratio + (mean - expected) ** 2 / variance - 1 - np.log(ratio)) / 2))
