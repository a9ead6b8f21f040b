"""Divergence from few samples with less of their chance in it: the curvature of class scores pooled over samples.

KL(z, z + Δ) ≈ ½ Δᵀ F(z) Δ with F(z) = diag(p) - p pᵀ, p = softmax(z), the Fisher information of a categorical
distribution (Martens, 2020, §5). F all but vanishes where a model is sure, so a few undecided samples make up most of
a mean KL, and which those are is chance. ½ Δᵀ F̄ Δ, with F̄ the mean of F over the samples, counts the Δ of each of
them in full. It has the same expectation where Δ and F are independent; where they are not, `level`, the typical ratio
over many changes, makes up for it. Half of either is what effects and plans are judged by (docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from onnxmpq.sensitivity.divergence import Code, Divergence, OutputView

SHARE = 0.5  # of the pooled curvature in the divergence of class scores
MOST_ROWS = 256  # of reference probabilities that F̄ is the mean over


@dataclass(frozen=True, eq=False)
class Curvature:
    """F̄ of one output. probabilities: float64 [rows, classes], whose mean F it is."""

    probabilities: NDArray[np.float64]

    @classmethod
    def of(cls, view: OutputView, reference: Code) -> Curvature:
        """From reference codes, float32 [samples, width]."""
        rows = reference.reshape(-1, view.classes)
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).round().astype(int)
        return cls(softmax(rows[chosen].astype(np.float64), axis=-1))

    def per_sample(self, change: Code) -> NDArray[np.float64]:
        """½ Δᵀ F̄ Δ, mean over the rows of each sample, in nats, float64 [samples]."""
        rows = change.reshape(-1, self.probabilities.shape[1]).astype(np.float64)
        spread = np.square(rows) @ self.probabilities.mean(axis=0) - np.square(rows @ self.probabilities.T).mean(axis=1)
        return np.asarray(0.5 * spread.reshape(len(change), -1).mean(axis=1))


@dataclass(frozen=True, eq=False)
class PooledDivergence(Divergence):
    """Divergence of which class scores have a `share` from the pooled curvature, other outputs nothing.

    curvatures, levels: one per view; None for outputs that are no class scores.
    """

    curvatures: tuple[Curvature | None, ...]
    levels: tuple[float, ...]
    share: float = SHARE

    @classmethod
    def fitted(
        cls, divergence: Divergence, reference: Code, changes: Iterable[Code], share: float = SHARE
    ) -> PooledDivergence:
        """F̄ from the reference codes, levels from many changes of them (both float32 [samples, width])."""
        curvatures = [
            Curvature.of(view, part) if view.kind != "values" and view.width else None
            for view, part in zip(divergence.views, divergence.parts(reference), strict=True)
        ]
        ratios: list[list[float]] = [[] for _ in curvatures]
        for change in changes:
            both = zip(divergence.parts(reference), divergence.parts(change), strict=True)
            for view, curvature, found, (before, moved) in zip(divergence.views, curvatures, ratios, both, strict=True):
                if curvature is not None and (pooled := float(curvature.per_sample(moved).mean())) > 0:
                    found.append(float(view.divergence(before, moved).mean()) / pooled)
        levels = tuple(float(np.median(r)) if r else 1.0 for r in ratios)
        return cls(divergence.views, tuple(curvatures), levels, share, scale=divergence.scale)

    def of_view(self, number: int, reference: Code, change: Code) -> NDArray[np.float64]:
        plain, curvature = super().of_view(number, reference, change), self.curvatures[number]
        if curvature is None:
            return plain
        return (1.0 - self.share) * plain + self.share * self.levels[number] * curvature.per_sample(change)
