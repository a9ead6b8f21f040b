"""The samples that effects are measured on: those that say most about quantization.

What a classifier is sure of it stays sure of: on vit_tiny three samples in four hardly diverge, whatever is quantized,
so a few samples say little. To first order, divergence grows with Var_p(Δz), and so with the doubt 1 - Σ p².
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmpq.execution import run_samples
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.sensitivity.divergence import Code, Divergence
from onnxmpq.sensitivity.effects import make_divergence
from onnxmpq.sensitivity.elimination import FIRST_LOOK
from onnxmpq.sensitivity.output_kinds import OutputKind, softmax


def effect_samples(
    model: Model, feeds: Feeds, count: int, kinds: Mapping[str, OutputKind], *, threads: int
) -> tuple[list[int], float]:
    """(`count` samples, those that a classifier doubts most, else evenly spread ones, `mixed`; the share of the
    divergence on them that all samples have on average)."""
    doubts = output_doubts(model, feeds, kinds, threads) if count < len(feeds) else np.zeros(len(feeds))
    if not doubts.any():
        return together(feeds, mixed(evenly_spread(len(feeds), count))), 1.0
    most = sorted(_most_doubted(doubts, feeds, count))
    return together(feeds, mixed(most)), share_of(doubts, most)


def share_of(doubts: NDArray[np.float64], chosen: Sequence[int]) -> float:
    """Divergence that all samples have on average, relative to that on those that are chosen."""
    return float(doubts.mean() / doubts[chosen].mean())


def spread_by_doubt(doubts: NDArray[np.float64], feeds: Feeds, count: int) -> list[int]:
    """All samples, first `count` whose doubts are spread as those of all; in their order where there is no doubt."""
    if not doubts.any() or count >= len(feeds):
        return list(range(len(feeds)))
    ascending = np.argsort(doubts, kind="stable")
    chosen = sorted(int(ascending[place]) for place in evenly_spread(len(feeds), count))
    return [*together(feeds, chosen), *sorted(set(range(len(feeds))) - set(chosen))]


def _most_doubted(doubts: NDArray[np.float64], feeds: Feeds, count: int) -> list[int]:
    """Samples with most doubt, of each phase of a decoder in its share of all samples."""
    ordered = [int(i) for i in np.argsort(-doubts, kind="stable")]
    if not feeds.runs:
        return ordered[:count]
    decode = [i for i in ordered if feeds.runs[i].step == "decode"]
    prefill = [i for i in ordered if feeds.runs[i].step != "decode"]
    share = round(count * len(decode) / len(ordered))
    return [*decode[:share], *prefill[: count - share]]


def together(feeds: Feeds, numbers: Sequence[int]) -> list[int]:
    """The same with samples of one shape side by side, which then go through the model in one run; only among as many
    as ranges are first compared on, so that these stay a mixture."""
    places = sorted(range(len(numbers)), key=lambda place: (place // FIRST_LOOK, feeds.shapes(numbers[place])))
    return [numbers[place] for place in places]


def evenly_spread(available: int, count: int) -> list[int]:
    return [int(i) for i in np.linspace(0, available - 1, count).round()]


def mixed(ascending: Sequence[int]) -> list[int]:
    """The same in van der Corput's order, of which every first part is spread: the first ones choose among ranges, and
    a source may be sorted."""
    bits = max(len(ascending) - 1, 1).bit_length()
    return [ascending[i] for i in sorted(range(len(ascending)), key=lambda i: f"{i:0{bits}b}"[::-1])]


def output_doubts(model: Model, feeds: Feeds, kinds: Mapping[str, OutputKind], threads: int) -> NDArray[np.float64]:
    """float64 [samples]: `doubts_of` the fp32 model."""
    divergence, _ = make_divergence(model, feeds.take(feeds.extremes), 1, threads=threads, kinds=kinds)
    if not any(v.classes for v in divergence.views):
        return np.zeros(len(feeds))
    runs = run_samples(model.store, feeds, divergence.tensors, threads=threads)
    return np.concatenate([doubts_of(divergence, divergence.encode(outputs, 1)) for outputs in runs])


def doubts_of(divergence: Divergence, codes: Code) -> NDArray[np.float64]:
    """float64 [samples]: 1 - Σ p² of the classes, mean over rows, summed over such outputs; else 0. codes: of outputs,
    float32 [samples, width]."""
    found = np.zeros(len(codes))
    for view, code in zip(divergence.views, divergence.parts(codes), strict=True):
        if view.classes:
            scores = code.reshape(len(codes), -1, view.classes)
            found += 1.0 - np.square(softmax(scores)).sum(axis=-1).mean(axis=-1)
    return found
