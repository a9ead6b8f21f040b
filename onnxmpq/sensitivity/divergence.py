"""Divergence of a model's outputs from the reference, and a compact code of outputs in which changes can be added.

Classifier-like outputs are kept as logits (rows of class scores) and compared by KL divergence; other outputs are
scaled per channel by their spread over the calibration samples (channels are on different scales) and, where
they are large, sketched by a fixed random projection that preserves squared distances (Johnson-Lindenstrauss in the
count-sketch form of Charikar et al., 2002). Every code is linear in the (log-)outputs, so changes superpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxmpq.finite import finite, numbers
from onnxmpq.sensitivity.output_kinds import OUTPUT_KINDS, OutputKind, class_scores, kl_divergence

Code = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class OutputView:
    """One output of the model, seen as codes float32 [samples, width].

    kind: a row of `OUTPUT_KINDS`. classes: of kinds that have any, 0 for others.
    rows: which rows of class scores are kept. width: 0 for outputs whose shape depends on the data (lists of
    detections), which cannot be compared by position, and for those that depend on random numbers. padded: True for the
    former where there is nothing else to compare; their values are then laid out in a row as long as the longest one,
    one sample a run.
    scale: without classes, 1 / spread per element. bucket, sign: the count sketch, None where all elements are kept.
    """

    name: str
    kind: OutputKind
    classes: int
    rows: NDArray[np.int64]
    scale: NDArray[np.float32] | None = None
    bucket: NDArray[np.int64] | None = None
    sign: NDArray[np.float32] | None = None
    width: int = 0
    elements: int = 0
    padded: bool = False

    def encode(self, output: NDArray[np.float32], samples: int) -> Code:
        """Output of a run of `samples` samples -> float32 [samples, width]."""
        if not self.width:
            return np.zeros((samples, 0), np.float32)
        output = finite(output)
        if output.size != samples * self.elements:  # in one sample as it was in none of those that the view was made of
            output = _laid_out(output, samples * self.elements)
        if self.classes:
            scores = class_scores(self.kind, output.reshape(samples, -1, self.classes)[:, self.rows])
            return np.asarray(scores.reshape(samples, -1), dtype=np.float32)
        assert self.scale is not None
        flat = output.reshape(samples, -1)
        if self.bucket is None:
            return np.asarray(flat * self.scale, dtype=np.float32)
        return np.stack([np.bincount(self.bucket, self._signed_scale * row, self.width) for row in flat]).astype(
            np.float32
        )

    @cached_property
    def _signed_scale(self) -> NDArray[np.float32]:
        assert self.scale is not None and self.sign is not None
        return self.scale * self.sign

    def divergence(self, reference: Code, change: Code) -> NDArray[np.float64]:
        """Per sample, float64 [samples]: KL in nats (mean over rows), or relative mean squared error."""
        if not self.classes:
            return np.asarray(np.square(change.astype(np.float64)).sum(axis=1) / self.elements)
        before = reference.reshape(len(reference), -1, self.classes).astype(np.float64)
        after = before + change.reshape(before.shape)
        return np.asarray(kl_divergence(before, after).mean(axis=-1))


def floored(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations per channel by which errors are divided: at least a millionth of the largest one's."""
    return np.maximum(spread, max(float(spread.max()) * 1e-6, 1e-12))


@dataclass(frozen=True, eq=False)
class Divergence:
    """All outputs together; the code of a model run is the views' codes side by side.

    scale: what divergence is multiplied by, for samples that are not like the others.
    """

    views: tuple[OutputView, ...]
    scale: float = field(default=1.0, kw_only=True)

    def encode(self, outputs: Sequence[NDArray[np.generic]], samples: int) -> Code:
        """Outputs of a run of `samples` samples -> float32 [samples, width]."""
        return np.concatenate([v.encode(numbers(o), samples) for v, o in zip(self.views, outputs, strict=True)], axis=1)

    def parts(self, code: Code) -> list[Code]:
        """A code cut into those of the views."""
        return np.split(code, np.cumsum([v.width for v in self.views])[:-1], axis=1)

    def of_view(self, number: int, reference: Code, change: Code) -> NDArray[np.float64]:
        """Divergence of one output, from its part of the codes, float64 [samples]."""
        return self.views[number].divergence(reference, change)

    def per_sample(self, reference: Code, change: Code) -> NDArray[np.float64]:
        """Divergence of reference + change from reference, float64 [samples], summed over outputs."""
        both = zip(self.parts(reference), self.parts(change), strict=True)
        total = sum((self.of_view(i, *pair) for i, pair in enumerate(both)), np.zeros(len(reference)))
        return np.asarray(self.scale * total)

    def mean(self, reference: Code, change: Code) -> float:
        return float(self.per_sample(reference, change).mean())

    @property
    def kinds(self) -> dict[str, OutputKind]:
        return {v.name: v.kind for v in self.views}

    @property
    def one_at_a_time(self) -> bool:
        """True where an output's samples cannot be told apart in a run of several."""
        return any(v.padded for v in self.views)

    @property
    def width(self) -> int:
        return sum(v.width for v in self.views)


def make_view(
    name: str,
    kind: OutputKind,
    samples: Sequence[NDArray[np.float32]],
    width_limit: int,
    seed: int,
    *,
    padded: bool = False,
) -> OutputView:
    """A view fitted to reference outputs (one array per sample, without a batch axis of more than one). padded: of an
    output without a shape of its own, by the values laid out in a row."""
    generator, samples = np.random.default_rng(seed), [finite(s) for s in samples]
    if padded:
        longest = max(s.size for s in samples)
        samples = [_laid_out(s, longest) for s in samples]
        kind = "random" if kind == "random" else "values"
    first = samples[0]
    elements = int(first.size)
    if not elements or any(s.shape != first.shape for s in samples):
        return hidden(name, "random" if kind == "random" else "values")
    if OUTPUT_KINDS[kind].scores is not None:
        classes = first.shape[-1]
        rows = elements // classes
        kept = np.sort(generator.permutation(rows)[: max(width_limit // classes, 1)])
        return OutputView(name, kind, classes, kept, width=len(kept) * classes, elements=elements)
    scale = _inverse_spread(samples)
    if elements <= width_limit:
        none = np.zeros(0, np.int64)
        return OutputView(name, kind, 0, none, scale, width=elements, elements=elements, padded=padded)
    bucket = generator.integers(0, width_limit, elements)
    sign = generator.choice(np.array([-1.0, 1.0], np.float32), elements)
    none = np.zeros(0, np.int64)
    return OutputView(name, kind, 0, none, scale, bucket, sign, width_limit, elements, padded)


def hidden(name: str, kind: OutputKind) -> OutputView:
    """The view of an output that is not compared."""
    return OutputView(name, kind, 0, np.zeros(0, np.int64), width=0, elements=1)


def _laid_out(values: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """float32 [length]: the first of the values, then zeros."""
    row = np.zeros(length, np.float32)
    row[: values.size] = values.ravel()[:length]
    return row


def _inverse_spread(samples: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """1 / standard deviation per channel (axis 1 where there are three axes or more, else one for all elements)."""
    shape = samples[0].shape
    channels = shape[1] if len(shape) >= 3 else 1
    total = np.zeros(channels)
    squares = np.zeros(channels)
    for sample in samples:
        values = sample.reshape(channels, -1).astype(np.float64)
        total += values.mean(axis=1)
        squares += np.square(values).mean(axis=1)
    mean = total / len(samples)
    spread = np.sqrt(np.maximum(squares / len(samples) - mean**2, 0.0))
    per_element = np.repeat(1.0 / floored(spread), samples[0].size // channels)
    return per_element.astype(np.float32)
