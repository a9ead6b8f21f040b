"""Confidence intervals without a model of the noise: the binomial distribution, and the median of a sample."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def at_most(successes: int, trials: int, probability: float) -> float:
    """Probability of no more than so many successes in independent trials. probability: of one, in [0, 1]."""
    if successes < 0:
        return 0.0
    if successes >= trials or probability <= 0.0:
        return 1.0
    if probability >= 1.0:
        return 0.0
    log_p, log_q = math.log(probability), math.log1p(-probability)
    ways = math.lgamma(trials + 1)
    logs = (
        ways - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_p + (trials - k) * log_q
        for k in range(successes + 1)
    )
    return min(math.fsum(map(math.exp, logs)), 1.0)


def median_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free confidence interval of the median: the order statistics between which it lies in that share of
    samples at least; the whole range where there are too few.

    Source: Conover, Practical Nonparametric Statistics, section 3.2 (the number of values below the median is
    binomial with p = 1/2).
    """
    ordered, count = np.sort(values), len(values)
    outside, rank = (1.0 - confidence) / 2.0, 0
    while at_most(rank, count, 0.5) < outside:
        rank += 1
    rank = max(rank, 1)
    return float(ordered[rank - 1]), float(ordered[count - rank])
