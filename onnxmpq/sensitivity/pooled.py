"""Divergence from few samples with less of their chance in it: the curvature of class scores pooled over samples.

KL(z, z + Δ) ≈ ½ Δᵀ F(z) Δ with F(z) = diag(p) - p pᵀ, p = softmax(z), the Fisher information of a categorical
distribution. F all but vanishes where a model is sure, so a few undecided samples make up most of a mean KL, and which
those are is chance. ½ Δᵀ F̄ Δ, with F̄ the mean of F over the samples, counts the Δ of each of them in full. It has the
same expectation where Δ and F are independent; where they are not, `level`, the typical ratio over many changes, makes
up for it. What KL says beyond that level is believed as far as halves of the samples agree on it (`reliability.py`):

    trust · KL + (1 - trust) · level · ½ Δᵀ F̄ Δ
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.sensitivity.divergence import Code, Divergence, OutputView
from onnxmpq.sensitivity.output_kinds import softmax
from onnxmpq.sensitivity.reliability import level_and_trust

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
        return cls(softmax(rows[chosen]))

    def per_sample(self, change: Code) -> NDArray[np.float64]:
        """½ Δᵀ F̄ Δ, mean over the rows of each sample, in nats, float64 [samples]."""
        rows = change.reshape(-1, self.probabilities.shape[1]).astype(np.float64)
        spread = np.square(rows) @ self.probabilities.mean(axis=0) - np.square(rows @ self.probabilities.T).mean(axis=1)
        return np.asarray(0.5 * spread.reshape(len(change), -1).mean(axis=1))


@dataclass(frozen=True, eq=False)
class PooledDivergence(Divergence):
    """Divergence of which class scores have a share from the pooled curvature, other outputs nothing.

    curvatures, levels, trusts: one per view; None for outputs that are no class scores. The share is 1 - trust.
    """

    curvatures: tuple[Curvature | None, ...]
    levels: tuple[float, ...]
    trusts: tuple[float, ...]

    @classmethod
    def fitted(cls, divergence: Divergence, reference: Code, changes: Sequence[Code]) -> PooledDivergence:
        """F̄ from the reference codes, levels and trusts from many changes of them or of the first few of them (both
        float32 [samples, width])."""
        before, moved = divergence.parts(reference), [divergence.parts(change) for change in changes]
        fitted = [_fitted(v, before[i], [parts[i] for parts in moved]) for i, v in enumerate(divergence.views)]
        curvatures, levels, trusts = zip(*fitted, strict=True)
        return cls(divergence.views, curvatures, levels, trusts, scale=divergence.scale)

    @classmethod
    def restored(
        cls,
        divergence: Divergence,
        reference: Code,
        curved: Sequence[bool],
        levels: Sequence[float],
        trusts: Sequence[float],
    ) -> PooledDivergence:
        """As `fitted` made it, from its levels and trusts; curved: per view, whether it has a curvature."""
        views, before = divergence.views, divergence.parts(reference)
        curvatures = tuple(
            Curvature.of(v, code) if c else None for v, code, c in zip(views, before, curved, strict=True)
        )
        return cls(views, curvatures, tuple(levels), tuple(trusts), scale=divergence.scale)

    def around(self, reference: Code) -> PooledDivergence:
        """The same with F̄ from other reference codes."""
        both = zip(self.views, self.parts(reference), self.curvatures, strict=True)
        return replace(self, curvatures=tuple(None if c is None else Curvature.of(v, code) for v, code, c in both))

    def at_level(self, level: float) -> PooledDivergence:
        """The same for samples on which divergence is so many times that on those of the fit, by changes of the same
        size."""
        return replace(self, levels=tuple(level * own for own in self.levels))

    def of_view(self, number: int, reference: Code, change: Code) -> NDArray[np.float64]:
        plain, curvature = super().of_view(number, reference, change), self.curvatures[number]
        if curvature is None:
            return plain
        trust = self.trusts[number]
        return trust * plain + (1.0 - trust) * self.levels[number] * curvature.per_sample(change)


def _fitted(view: OutputView, reference: Code, changes: Sequence[Code]) -> tuple[Curvature | None, float, float]:
    """Curvature, level and trust of one output."""
    if not view.classes or not view.width or not changes:
        return None, 1.0, 1.0
    curvature = Curvature.of(view, reference)
    pooled = np.stack([curvature.per_sample(change) for change in changes])
    plain = np.stack([view.divergence(reference[: len(change)], change) for change in changes])
    return curvature, *level_and_trust(pooled, plain, np.random.default_rng(0))
