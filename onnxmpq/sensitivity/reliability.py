"""Reliability: the trust in a finer estimate beside a coarser one that chance disturbs less.

Both estimate the divergence of many changes. The ratio of fine to coarse has a typical level; what deviates from it is
partly chance. Trust is how well the deviations on one half of the samples predict those on the other half (split-half
reliability), carried over to all samples by the Spearman-Brown formula, 2r / (1 + r).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SPLITS = 8
FEWEST_SAMPLES = 8  # to believe any deviation
FEWEST_CHANGES = 3
NEGLIGIBLE = 1e-6  # of the largest change, or of the coarse estimate: chance alone


def level_and_trust(
    coarse: NDArray[np.float64], fine: NDArray[np.float64], generator: np.random.Generator
) -> tuple[float, float]:
    """level: typical ratio of fine to coarse. trust: reliability of the deviations from it, 0 to 1; both from
    [changes, samples]."""
    sizes = coarse.mean(axis=1)
    used = sizes > NEGLIGIBLE * sizes.max(initial=0.0)
    coarse, fine = coarse[used], fine[used]
    if not len(coarse):
        return 1.0, 0.0
    level = float(np.exp(_log_ratio(coarse, fine).mean()))
    if len(coarse) < FEWEST_CHANGES or coarse.shape[1] < FEWEST_SAMPLES:
        return level, 0.0
    halves: list[float] = []
    for _ in range(SPLITS):
        order = generator.permutation(coarse.shape[1])
        first, second = (_deviations(coarse[:, part], fine[:, part]) for part in _halved(order))
        power = float(first @ first)
        halves.append(float(first @ second) / power if power > 0 else 0.0)
    reliability = float(np.clip(np.mean(halves), 0.0, 1.0))
    return level, 2.0 * reliability / (1.0 + reliability)


def _deviations(coarse: NDArray[np.float64], fine: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(fine / coarse) per change, less its mean over changes."""
    ratio = _log_ratio(coarse, fine)
    return np.asarray(ratio - ratio.mean())


def _log_ratio(coarse: NDArray[np.float64], fine: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(fine / coarse) of the means over samples, float64 [changes]."""
    below = np.maximum(coarse.mean(axis=1), np.finfo(np.float64).tiny)
    return np.asarray(np.log(np.maximum(fine.mean(axis=1) / below, NEGLIGIBLE)))


def _halved(order: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    whole = np.asarray(order)
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]
