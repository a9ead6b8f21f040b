"""Gains: how much divergence of the outputs a change at the exit of a block makes.

For small changes both are quadratic, so divergence ≈ gain · change². The directions of changes matter, so gains come
from changes that quantization really makes. They depend on the perturbed tensor far more than on the format (on
gpt_char within 5 % over all formats of a layer, by up to a factor of 4 between layers of a block), so a tensor of which
a change was carried to the outputs has a gain of its own, shrunk towards the block's as far as it is noise; all others
take the block's, the geometric mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_NEGLIGIBLE = 1e-9  # of the largest divergence: last bits


@dataclass(frozen=True, eq=False)
class Arrival:
    """A change that was carried to the outputs. target: the tensor that was perturbed. sizes: of the change at the
    exit, float64 [measures, samples]. divergence: at the outputs, float64 [samples]."""

    target: str
    sizes: NDArray[np.float64]
    divergence: NDArray[np.float64]

    @property
    def measures(self) -> int:
        return len(self.sizes)

    def log_gain(self, measure: int) -> float:
        """By one of the measures, or the last one where there are fewer."""
        return float(np.log(self.divergence.mean() / self._sizes(measure).mean()))

    def variance(self, measure: int) -> float:
        """Squared standard error of the logarithm, from the differences between samples (ratio estimator)."""
        sizes, count = self._sizes(measure), len(self.divergence)
        if count < 2:
            return float("inf")
        rest = self.divergence / self.divergence.mean() - sizes / sizes.mean()
        return float(np.square(rest).sum() / (count * (count - 1)))

    def _sizes(self, measure: int) -> NDArray[np.float64]:
        return np.asarray(self.sizes[min(measure, self.measures - 1)])


@dataclass(frozen=True)
class Gain:
    """Of a block. factor: divergence per squared change. spread: standard deviation of its logarithm between tensors
    that were perturbed, None from fewer than two. changes: that arrived; 0 where the gain is a neighbour's. own: of
    single tensors."""

    factor: float
    spread: float | None
    changes: int
    own: Mapping[str, float] = field(default_factory=dict)

    def of(self, target: str) -> float:
        """For changes of a tensor."""
        return self.own.get(target, self.factor)


def fit_gains(blocks: Sequence[Sequence[Arrival]]) -> tuple[int, list[Gain]]:
    """(the measure by which gains differ least within blocks, the gain of each block by it, or by its last measure
    where it has fewer)."""
    floor = _NEGLIGIBLE * max((float(a.divergence.mean()) for row in blocks for a in row), default=0.0)
    usable = [[a for a in row if a.divergence.mean() > floor and a.sizes.mean(axis=1).min() > 0.0] for row in blocks]
    measures = max((a.measures for row in usable for a in row), default=1)
    best = min(range(measures), key=lambda m: sum(_within([a.log_gain(m) for a in row]) for row in usable))
    return best, _filled([_gain(row, best) for row in usable])


def _within(logs: Sequence[float]) -> float:
    """Squared deviations from the mean."""
    return float(np.square(np.array(logs) - np.mean(logs)).sum()) if logs else 0.0


def _gain(arrivals: Sequence[Arrival], measure: int) -> Gain | None:
    if not arrivals:
        return None
    logs = np.array([a.log_gain(measure) for a in arrivals])
    noise = np.array([a.variance(measure) for a in arrivals])
    mean, spread = float(logs.mean()), float(logs.std(ddof=1)) if len(logs) > 1 else None
    between = max((spread or 0.0) ** 2 - float(noise.mean()), 0.0)
    trust = between / (between + noise) if between else np.zeros(len(logs))
    own: dict[str, list[float]] = {}
    for arrival, log, share in zip(arrivals, logs, trust, strict=True):
        own.setdefault(arrival.target, []).append(mean + share * (log - mean))
    return Gain(float(np.exp(mean)), spread, len(logs), {t: float(np.exp(np.mean(row))) for t, row in own.items()})


def _filled(gains: Sequence[Gain | None]) -> list[Gain]:
    """Blocks of which no change arrived take the gain of the nearest one; nothing arrives where none has any."""
    known = {i: gain for i, gain in enumerate(gains) if gain is not None}
    if not known:
        return [Gain(0.0, None, 0) for _ in gains]
    found = []
    for number, gain in enumerate(gains):
        near = known[min(known, key=lambda k: (abs(k - number), k))]
        found.append(gain or Gain(near.factor, near.spread, 0))
    return found
