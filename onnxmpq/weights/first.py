"""First rounding, before any plan: every (layer, format) for the inputs that the layer has in the fp32 model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from onnxmpq.feeds import Feeds
from onnxmpq.model import LayerWeight, Model, Region
from onnxmpq.rounding import LayerToRound, PairBound, QuantizedWeight, WeightFormat, joined, parts, rounded_layers
from onnxmpq.statistics import Moments, measure_moments, spread_moments
from onnxmpq.tasks import Elsewhere
from onnxmpq.weights.bound import pair_bound
from onnxmpq.weights.techniques import Techniques

WeightKey = tuple[str, str]  # key of the weight, its format
FloatArray = NDArray[np.float32]
WORTH_PROCESSES = 500_000  # parameters to round, over all formats: about a second
MOST_CHANCE = 0.75
"""Share of what is chance in the moments of a layer's inputs, from which on a weight of a model that is never whole in
memory is not rounded for them: that lowers its error by a fifth at most (docs/rounding.md), and takes minutes."""
Done = Callable[[WeightKey, QuantizedWeight], None]


def round_weights(
    model: Model,
    formats: Mapping[WeightKey, WeightFormat],
    feeds: Feeds,
    techniques: Techniques,
    *,
    threads: int = 1,
    done: Done = lambda *_: None,
    elsewhere: Elsewhere | None = None,
    skipped: Callable[[str], None] = lambda _: None,
) -> dict[WeightKey, QuantizedWeight]:
    """Weights rounded for the moments of these samples; `done` gets each as soon as it is, `skipped` the keys of those
    that are left out since the samples have too few rows for them (`MOST_CHANCE`).

    elsewhere: measures moments and rounds, where that is worth processes.

    What cannot be rounded that way (embeddings, transposed convolutions, recurrent weights) is left out, and
    everything without GPTQ.
    """
    if techniques.method == "nearest":
        return {}
    by_key: dict[str, list[WeightFormat]] = {}
    for (key, _), weight_format in formats.items():
        by_key.setdefault(key, []).append(weight_format)
    places, shared = model.weights, _Shared.of(model, by_key)
    worth_it = sum(places[key][1].parameters for key, _ in formats) > WORTH_PROCESSES
    elsewhere = elsewhere if worth_it else None

    def measured() -> Iterator[tuple[str, Moments]]:
        weights = {*by_key, *shared.first}
        if elsewhere is None:
            return measure_moments(model, weights, feeds, threads=threads, believed=True)
        return spread_moments(elsewhere, model, weights, feeds, threads=threads, believed=True)

    def layers() -> Iterator[LayerToRound]:
        for key, moments in measured():
            if model.store.spill is not None and moments.chance >= MOST_CHANCE:
                skipped(key)
            elif key in shared.first:
                shared.add(key, moments.hessian)
            else:
                yield from pieces(key, by_key[key], moments.hessian)
            del moments  # while the next are measured
        for first, hessian in shared.hessians.items():
            yield from pieces(first, shared.formats[first], hessian)

    def pieces(key: str, wanted: list[WeightFormat], hessian: FloatArray) -> Iterator[LayerToRound]:
        place, bounds = places[key][1], _bounds([places[k] for k in shared.members(key)], wanted)
        for rows in parts(place.out_channels, place.fan_in, wanted, len(hessian)):
            weight = model.matrix(place, rows)
            yield LayerToRound(key, weight, wanted, techniques.method, hessian, bounds, rows.start)

    rounded: dict[WeightKey, QuantizedWeight] = {}
    results = rounded_layers(layers(), threads if worth_it else 1, elsewhere)
    # beside the runtime's own threads BLAS is 6 times slower with two
    with threadpool_limits(1, user_api="blas"), closing(results):
        for name, found in _whole(results, places):
            wanted = shared.formats.get(name) or by_key[name]
            for weight_format, rounded_weight in zip(wanted, found, strict=True):
                weight = rounded_weight.kept_by(model.store.kept)
                for key in shared.members(name):
                    if (key, weight_format.name) in formats:
                        rounded[key, weight_format.name] = weight
                        done((key, weight_format.name), weight)
    return {key: rounded[key] for key in formats if key in rounded}


def _bounds(users: Sequence[tuple[Region, LayerWeight]], wanted: Sequence[WeightFormat]) -> list[PairBound | None]:
    """For each format, the bound of the first layer that has one."""
    return [next((b for user in users if (b := pair_bound(*user, f)) is not None), None) for f in wanted]


def _whole(
    results: Iterator[tuple[str, int, list[QuantizedWeight]]], places: Mapping[str, tuple[Region, LayerWeight]]
) -> Iterator[tuple[str, list[QuantizedWeight]]]:
    """Weights with one result per format, from parts in any order."""
    waiting: dict[str, dict[int, list[QuantizedWeight]]] = {}
    for name, first_row, found in results:
        rows = waiting.setdefault(name, {})
        rows[first_row] = found
        if sum(len(made[0].codes) for made in rows.values()) == places[name][1].out_channels:
            del waiting[name]
            ordered = [rows[start] for start in sorted(rows)]
            yield name, [joined(of_format) for of_format in zip(*ordered, strict=True)]


@dataclass(frozen=True)
class _Shared:
    """Weights that several layers have: rounded once, for what all of these layers read.

    first: key -> that of the first with the same weight, for all that share one that is to be rounded. formats: by
    first, every format that one of them needs. hessians: by first, summed over those that have any.
    """

    first: Mapping[str, str]
    formats: Mapping[str, list[WeightFormat]]
    hessians: dict[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, by_key: Mapping[str, Sequence[WeightFormat]]) -> _Shared:
        wanted: dict[str, dict[str, WeightFormat]] = {}
        for key, formats in by_key.items():
            if (first := model.shared_weights.get(key)) is not None:
                wanted.setdefault(first, {}).update({f.name: f for f in formats})
        members = {key: first for key, first in model.shared_weights.items() if first in wanted}
        return cls(members, {first: list(formats.values()) for first, formats in wanted.items()})

    def add(self, key: str, hessian: FloatArray) -> None:
        first = self.first[key]
        before = self.hessians.get(first)
        if before is None or before.shape == hessian.shape:
            self.hessians[first] = hessian if before is None else before + hessian

    def members(self, name: str) -> list[str]:
        return [key for key, first in self.first.items() if first == name] or [name]
