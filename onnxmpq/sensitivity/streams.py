"""Changes at the exit of a block, in two measures: the samples decide which one foretells the outputs better.

*Scaled*: over the spread of each channel, or position. *Relative*: after each row has been brought to mean 0 and
variance 1, as the LayerNormalization does that reads the stream of most transformers; for streams of three axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from onnxmpq.execution import run_samples
from onnxmpq.feeds import Array, Feeds
from onnxmpq.model import Model
from onnxmpq.sensitivity.blocks import Block
from onnxmpq.sensitivity.divergence import Code, Divergence, OutputView, make_view
from onnxmpq.sensitivity.effects import Frame
from onnxmpq.statistics import numbers

FIT_SAMPLES = 8  # that spreads are taken from
SMALLEST_SPREAD = 1e-6  # of a row, relative to the largest value of the sample


@dataclass(frozen=True, eq=False)
class StreamView(OutputView):
    """A measure of the exit of a block. relative: of rows with mean 0 and variance 1.

    signed: per element, its scale with a random sign. Entries whose numbers are the same modulo `width` are added up,
    which preserves squared distances as `OutputView`'s sketch does, in a tenth of its time.
    """

    relative: bool = False
    signed: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def encode(self, output: NDArray[np.float32], samples: int) -> Code:
        """Finite values of a run of `samples` samples -> float32 [samples, width].

        Where samples have several shapes, values count by their mean square, as many as the longest had that the view
        was made of.
        """
        values = _normalised(output) if self.relative else output
        flat = values.reshape(samples, -1)
        size, kept = flat.shape[1], min(flat.shape[1], self.elements)
        rows = -(-self.elements // self.width)
        if size == rows * self.width:
            shape = rows, self.width
            return np.asarray(np.einsum("nrw,rw->nw", flat.reshape(samples, *shape), self.signed.reshape(shape)))
        signed = np.zeros((samples, rows * self.width), np.float32)
        np.multiply(flat[:, :kept], self.signed[:kept], out=signed[:, :kept])
        if size != self.elements:
            signed *= np.float32(np.sqrt(self.elements / max(size, 1)))
        return np.asarray(signed.reshape(samples, rows, self.width).sum(axis=1), np.float32)


@dataclass(frozen=True, eq=False)
class StreamDivergence(Divergence):
    """Divergence at the exit of a block. measures: number of views of the exit, which come first; behind them are those
    of outputs made in the block, which do not count."""

    measures: int

    def per_sample(self, reference: Code, change: Code) -> NDArray[np.float64]:
        """By the first measure, float64 [samples]."""
        return self.of_view(0, reference, self.parts(change)[0])


def stream_frames(
    model: Model,
    blocks: Sequence[Block],
    feeds: Feeds,
    frame: Frame,
    made: Sequence[Sequence[int]],
    *,
    width: int,
    threads: int,
) -> list[Frame]:
    """Of each block but the last one, in one pass. frame: of the outputs. made: per block the numbers of those of its
    views whose tensors are made there. width: most numbers per sample and measure."""
    exits = [b.exit for b in blocks if b.exit is not None]
    fitted = dict.fromkeys([*range(min(FIT_SAMPLES, len(feeds))), feeds.largest])
    order = [*fitted, *(i for i in range(len(feeds)) if i not in fitted)]
    runs = run_samples(model.store, feeds.take(order), exits, threads=threads)
    singles = [[numbers(t) for t in values] for values in islice(runs, len(fitted))]
    measures = [_measures(name, [s[i] for s in singles], width, bool(feeds.ragged)) for i, name in enumerate(exits)]
    codes = [np.zeros((len(feeds), sum(v.width for v in views)), np.float32) for views in measures]
    for number, values in zip(order, chain(_emptied(singles), runs), strict=True):
        for code, views, value in zip(codes, measures, values, strict=True):
            code[number] = np.concatenate([v.encode(numbers(value), 1) for v in views], axis=1)
    known = frame.divergence.parts(frame.reference)
    return [
        Frame(
            StreamDivergence((*views, *(frame.divergence.views[i] for i in own)), measures=len(views)),
            np.concatenate([code, *(known[i] for i in own)], axis=1),
        )
        for views, code, own in zip(measures, codes, made, strict=False)
    ]


def _emptied(values: list[list[NDArray[np.float32]]]) -> Iterator[Sequence[Array]]:
    """In order; what has been taken is not held any longer."""
    values.reverse()
    while values:
        yield values.pop()


def _measures(name: str, samples: Sequence[Array], width: int, ragged: bool) -> tuple[StreamView, ...]:
    values = [np.asarray(s, np.float32) for s in samples]
    if ragged:
        spread = max(float(np.concatenate([v.ravel() for v in values]).std()), float(np.finfo(np.float32).tiny))
        scale = np.full(max(v.size for v in values), 1.0 / spread, np.float32)
    else:
        found = make_view(name, "values", values, values[0].size, 0).scale
        scale = np.zeros(values[0].size, np.float32) if found is None else found
    ones = np.ones_like(scale)
    scaled = _view(name, scale, width, relative=False)
    return (scaled, _view(name, ones, width, relative=True)) if values[0].ndim == 3 else (scaled,)


def _view(name: str, scale: NDArray[np.float32], width: int, *, relative: bool) -> StreamView:
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0], np.float32), scale.size)
    none, elements = np.zeros(0, np.int64), max(scale.size, 1)
    return StreamView(
        name, "values", 0, none, width=min(width, elements), elements=elements, relative=relative, signed=scale * signs
    )


def _normalised(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows along the last axis with mean 0 and variance 1; those that are all the same with 0."""
    width = np.float32(max(values.shape[-1], 1))
    centred = values - np.einsum("...i->...", values)[..., None] / width
    spread = np.sqrt(np.einsum("...i,...i->...", centred, centred)[..., None] / width)
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    least = max(SMALLEST_SPREAD * largest, float(np.finfo(np.float32).tiny))
    return np.asarray(np.divide(centred, np.maximum(spread, least), out=centred))
