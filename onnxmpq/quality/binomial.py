"""The binomial distribution: how likely so many successes are."""

from __future__ import annotations

import math


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
