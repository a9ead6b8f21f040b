"""Divergence of a model's outputs from the reference, and a compact code of outputs in which changes can be added.

Classifier-like outputs are kept as logits (rows of class scores) and compared by KL divergence; other outputs are
scaled per channel by their spread over the calibration samples (channels are on different scales) and, where
they are large, sketched by a fixed random projection that preserves squared distances (Johnson-Lindenstrauss in the
count-sketch form of Charikar et al., 2002). Every code is linear in the (log-)outputs, so changes superpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.files import is_whole, shown
from onnxmpq.sensitivity.output_kinds import OUTPUT_KINDS, OutputKind, class_scores, kl_divergence
from onnxmpq.statistics import finite, numbers

Code = NDArray[np.float32]
MOST_ELEMENTS = 2**31 - 1
"""Elements of an output for one sample that a view from a file may claim."""


@dataclass(frozen=True, eq=False)
class OutputView:
    """One output of the model, seen as codes float32 [samples, width].

    kind: a row of `OUTPUT_KINDS`. classes: of kinds that have any, 0 for others.
    rows: which rows of class scores are kept. width: 0 for outputs whose shape depends on the data (lists of
    detections), which cannot be compared by position, and for those that depend on random numbers. padded: True for the
    former where there is nothing else to compare; their values are then laid out in a row as long as the longest one,
    one sample a run.
    inner: True for a tensor that is no output, but what integer outputs are made of.
    scale: without classes, 1 / spread per element. bucket, sign: the count sketch, None where all elements are kept.
    ragged: True where samples have different shapes, and the output follows them. A class output then has as many rows
    in all codes, spread over those of the sample; values are laid out in a row as long as the longest sample's, and
    count by their mean square; scale is per channel, along axis `channels` (None for one channel).
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
    inner: bool = False
    ragged: bool = False
    channels: int | None = None

    def check(self) -> None:
        """Raises ValueError where the fields, which come from a file, are not those of one view."""
        sizes = (self.classes, self.width, self.elements, *(() if self.channels is None else (self.channels,)))
        flags = all(isinstance(flag, bool) for flag in (self.padded, self.inner, self.ragged))
        if not flags or not all(is_whole(n) and 0 <= n <= MOST_ELEMENTS for n in sizes):
            raise ValueError("a view whose sizes are none")
        if self.kind not in OUTPUT_KINDS or not self.elements or self.width > self.elements:
            raise ValueError(f"a view of kind {shown(self.kind)}")
        if not _is_row(self.rows, np.int64) or (self.classes and not self._has_rows()):
            raise ValueError("a view of other rows")
        if self.width and not self.classes and not self._has_scale():
            raise ValueError("a view of another scale")

    def _has_rows(self) -> bool:
        """Class scores, of rows that are there."""
        there = bool(((self.rows >= 0) & (self.rows < self.elements // self.classes)).all())
        return there and OUTPUT_KINDS[self.kind].scores is not None and self.width == len(self.rows) * self.classes

    def _has_scale(self) -> bool:
        """A scale of every element, or channel, and a bucket below `width` and a sign of every element, or none."""
        scale, bucket, sign = self.scale, self.bucket, self.sign
        if not _is_row(scale, np.float32, None if self.ragged else self.elements) or not _positive(scale):
            return False
        if bucket is None or sign is None:
            return bucket is None and sign is None and self.width == self.elements
        if not _is_row(bucket, np.int64, self.elements) or not _is_row(sign, np.float32, self.elements):
            return False
        return bool(((bucket >= 0) & (bucket < self.width)).all() and (np.abs(sign) == 1).all())

    def encode(self, output: NDArray[np.float32], samples: int) -> Code:
        """Output of a run of `samples` samples -> float32 [samples, width]."""
        if not self.width:
            return np.zeros((samples, 0), np.float32)
        output = finite(output)
        if self.ragged:
            return self._encode_ragged(output, samples)
        if output.size != samples * self.elements:  # in one sample as it was in none of those that the view was made of
            output = _laid_out(output, samples * self.elements)
        if self.classes:
            scores = class_scores(self.kind, output.reshape(samples, -1, self.classes)[:, self.rows])
            return np.asarray(scores.reshape(samples, -1), dtype=np.float32)
        assert self.scale is not None
        flat = output.reshape(samples, -1)
        if self.bucket is None:
            return np.asarray(flat * self.scale, dtype=np.float32)
        return self._sketched(flat)

    def _sketched(self, rows: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> Code:
        """Elements of each bucket, added up."""
        assert self.bucket is not None
        return np.stack([np.bincount(self.bucket, self._signed_scale * row, self.width) for row in rows]).astype(
            np.float32
        )

    def _encode_ragged(self, output: NDArray[np.float32], samples: int) -> Code:
        """Of samples of one shape."""
        if not output.size:
            return np.zeros((samples, self.width), np.float32)
        if self.classes:
            if output.shape[-1] != self.classes:  # in no sample that the view was made of
                output = _laid_out(output, samples * len(self.rows) * self.classes)
            values = output.reshape(samples, -1, self.classes)
            chosen = np.arange(len(self.rows)) * values.shape[1] // len(self.rows)
            scores = class_scores(self.kind, values[:, chosen])
            return np.asarray(scores.reshape(samples, -1), dtype=np.float32)
        assert self.scale is not None
        along, scale = [1] * output.ndim, self.scale
        if self.channels is not None and output.shape[self.channels :][:1] == scale.shape:
            along[self.channels] = len(scale)
        elif self.channels is not None:  # so many channels had none of the samples that the view was made of
            scale = scale.mean(keepdims=True)
        share = np.sqrt(self.elements * samples / output.size)  # the mean square times the elements of the longest
        flat = (output * scale.reshape(along) * np.float32(share)).reshape(samples, -1)
        rows = [_laid_out(row, self.elements) for row in flat]
        return np.stack(rows) if self.bucket is None else self._sketched(rows)

    @cached_property
    def _signed_scale(self) -> NDArray[np.float32]:
        """Per element; ragged values are scaled already."""
        assert self.scale is not None and self.sign is not None
        return self.sign if self.ragged else self.scale * self.sign

    def divergence(self, reference: Code, change: Code) -> NDArray[np.float64]:
        """Per sample, float64 [samples]: KL in nats (mean over rows), or relative mean squared error."""
        if not self.classes:
            return np.asarray(np.square(change.astype(np.float64)).sum(axis=1) / self.elements)
        before = reference.reshape(len(reference), -1, self.classes).astype(np.float64)
        after = before + change.reshape(before.shape)
        return np.asarray(kl_divergence(before, after).mean(axis=-1))


def _is_row(values: object, dtype: type[np.generic], length: int | None = None) -> bool:
    """An array of one axis, of this length where one is given."""
    return (
        isinstance(values, np.ndarray)
        and values.dtype == dtype
        and values.ndim == 1
        and (length is None or len(values) == length)
    )


def _positive(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.size > 0 and bool((np.isfinite(values) & (values > 0)).all())


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
        """Values of `tensors` in a run of `samples` samples -> float32 [samples, width]."""
        return np.concatenate([v.encode(numbers(o), samples) for v, o in zip(self.views, outputs, strict=True)], axis=1)

    def fill(self, change: Code, reference: Code, rows: slice, made: Mapping[str, NDArray[np.generic]]) -> None:
        """Write what a run of the samples `rows` changed into `change` (float32 [samples, width], as `reference`).

        made: values of the tensors that changed; views of others stay as they are.
        """
        known: dict[str, NDArray[np.float32]] = {}
        start = 0
        for view in self.views:
            columns = slice(start, start + view.width)
            if view.width and view.name in made:
                if view.name not in known:
                    known[view.name] = numbers(made[view.name])
                code = view.encode(known[view.name], rows.stop - rows.start)
                np.subtract(code, reference[rows, columns], out=change[rows, columns])
            start = columns.stop

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
        """Of outputs."""
        return {v.name: v.kind for v in self.views if not v.inner}

    @property
    def tensors(self) -> list[str] | None:
        """The tensors that are compared, one per view; None where these are the outputs."""
        return [v.name for v in self.views] if any(v.inner for v in self.views) else None

    @property
    def one_at_a_time(self) -> bool:
        """True where an output's samples cannot be told apart in a run of several."""
        return any(v.padded for v in self.views)

    @property
    def width(self) -> int:
        return sum(v.width for v in self.views)


@dataclass(frozen=True, eq=False)
class SquaredChange(Divergence):
    """Divergence of changes that are scaled so that it is the sum of their squares."""

    def per_sample(self, reference: Code, change: Code) -> NDArray[np.float64]:
        """float64 [samples], whatever the reference."""
        return np.asarray(self.scale * np.square(change.astype(np.float64)).sum(axis=1))


def make_view(
    name: str,
    kind: OutputKind,
    samples: Sequence[NDArray[np.float32]],
    width_limit: int,
    seed: int,
    *,
    padded: bool = False,
    ragged: bool = False,
) -> OutputView:
    """A view fitted to reference outputs (one array per sample, without a batch axis of more than one). padded: of an
    output without a shape of its own, by the values laid out in a row. ragged: of an output whose shapes follow those
    of the samples."""
    generator, samples = np.random.default_rng(seed), [finite(s) for s in samples]
    if ragged:
        return _ragged_view(name, kind, samples, width_limit, generator)
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


def _ragged_view(
    name: str,
    kind: OutputKind,
    samples: Sequence[NDArray[np.float32]],
    width_limit: int,
    generator: np.random.Generator,
) -> OutputView:
    shapes = [s.shape for s in samples]
    elements, none = max(s.size for s in samples), np.zeros(0, np.int64)
    if not elements:
        return hidden(name, "values")
    classes = shapes[0][-1]
    if OUTPUT_KINDS[kind].scores is not None and all(shape[-1] == classes for shape in shapes):
        rows = np.arange(min(elements // classes, max(width_limit // classes, 1)))
        return OutputView(
            name, kind, classes, rows, width=len(rows) * classes, elements=len(rows) * classes, ragged=True
        )
    channels = channel_axis(shapes)
    scale = _ragged_inverse_spread([s for s in samples if s.size], channels)
    width = min(elements, width_limit)
    bucket = sign = None
    if elements > width_limit:
        bucket = generator.integers(0, width_limit, elements)
        sign = generator.choice(np.array([-1.0, 1.0], np.float32), elements)
    return OutputView(name, "values", 0, none, scale, bucket, sign, width, elements, ragged=True, channels=channels)


def channel_axis(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """The axis of an output's channels where samples differ in shape: axis 1 of three or more, or else the last, if all
    have the same size there; None for one channel."""
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        return None
    axes = [1] * (len(shapes[0]) > 2) + [len(shapes[0]) - 1] * (len(shapes[0]) > 1)
    return next((axis for axis in axes if len({shape[axis] for shape in shapes}) == 1), None)


def hidden(name: str, kind: OutputKind) -> OutputView:
    """The view of an output that is not compared."""
    return OutputView(name, kind, 0, np.zeros(0, np.int64), width=0, elements=1)


def _laid_out(values: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """float32 [length]: the first of the values, then zeros."""
    row = np.zeros(length, np.float32)
    row[: values.size] = values.ravel()[:length]
    return row


def _ragged_inverse_spread(samples: Sequence[NDArray[np.float32]], axis: int | None) -> NDArray[np.float32]:
    """1 / standard deviation per channel over all values of all samples, float32 [channels]."""
    by_channel = [by_channels(s, axis).astype(np.float64) for s in samples]
    count = sum(v.shape[1] for v in by_channel)
    mean = np.sum([v.sum(axis=1) for v in by_channel], axis=0) / count
    square = np.sum([np.square(v).sum(axis=1) for v in by_channel], axis=0) / count
    return np.asarray(1.0 / floored(np.sqrt(np.maximum(square - mean**2, 0.0))), np.float32)


def by_channels(values: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """[channels, values of each]."""
    return values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


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
