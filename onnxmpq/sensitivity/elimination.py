"""Several candidates, of which the one of least effect is wanted: the others are not run on all samples.

Few samples with a large loss decide on the mean effect of an activation range, so two ranges often cannot be told apart
even on all samples. On test samples, ranges chosen by half of 64 samples are as good as those chosen by all
(docs/quality.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxmpq.sensitivity.divergence import Code, Divergence

FIRST_LOOK = 8  # samples; then at twice as many, and so on up to half of all, when the leader has won
STANDARD_ERRORS = 2.0
"""By how much a candidate's mean effect must lie over the leader's, sample by sample, for it to drop out before."""
_WORST = 1e30  # where quantization makes the model compute NaN


class Elimination:
    """changes: per candidate float32 [samples, width], filled in by the caller from the first sample on."""

    def __init__(self, divergence: Divergence, reference: Code, candidates: int) -> None:
        self.divergence, self.reference = divergence, reference
        self.changes: list[Code] = [np.zeros_like(reference) for _ in range(candidates)]
        self.running = list(range(candidates))
        self._losses = np.zeros((candidates, len(reference)))
        self._last = min(max(-(-len(reference) // 2), FIRST_LOOK), len(reference))
        self._seen, self._next = 0, min(FIRST_LOOK, self._last)

    def look(self, done: int) -> None:
        """`done` samples have been filled in for all that are still running; afterwards clearly worse ones are not."""
        if len(self.running) < 2 or done < self._next:
            return
        losses = self._score(done)
        leader = int(losses.mean(axis=1).argmin())
        behind = losses - losses[leader]
        limits = STANDARD_ERRORS * behind.std(axis=1) / np.sqrt(done)
        kept = np.flatnonzero(behind.mean(axis=1) <= limits) if done < self._last else [leader]
        self.running = [self.running[i] for i in kept]
        self._next = min(2 * done, self._last)

    def _score(self, done: int) -> NDArray[np.float64]:
        """Effects of those running, float64 [running, done]."""
        fresh = slice(self._seen, done)
        for candidate in self.running:
            change = self.changes[candidate][fresh]
            loss = self.divergence.per_sample(self.reference[fresh], change)
            self._losses[candidate, fresh] = np.nan_to_num(loss, nan=_WORST, posinf=_WORST)
        self._seen = done
        return self._losses[self.running, :done]
