"""First rounding, before any plan: every (layer, format) for the inputs that the layer has in the fp32 model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

from threadpoolctl import threadpool_limits

from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.rounding import LayerToRound, QuantizedWeight, WeightFormat, rounded_layers
from onnxmpq.statistics import measure_moments
from onnxmpq.weights.bound import pair_bound
from onnxmpq.weights.techniques import Techniques

WeightKey = tuple[str, str]  # key of the weight, its format
WORTH_PROCESSES = 500_000  # parameters to round, over all formats: about a second
Done = Callable[[WeightKey, QuantizedWeight], None]


def round_weights(
    model: Model,
    formats: Mapping[WeightKey, WeightFormat],
    feeds: Feeds,
    techniques: Techniques,
    *,
    threads: int = 1,
    done: Done = lambda *_: None,
) -> dict[WeightKey, QuantizedWeight]:
    """Weights rounded for the moments of these samples; `done` gets each as soon as it is.

    What cannot be rounded that way (embeddings, transposed convolutions, recurrent weights) is left out, and
    everything without GPTQ.
    """
    if techniques.method == "nearest":
        return {}
    by_key: dict[str, list[WeightFormat]] = {}
    for (key, _), weight_format in formats.items():
        by_key.setdefault(key, []).append(weight_format)
    places = model.weights
    work = sum(places[key][1].parameters for key, _ in formats)

    def layers() -> Iterator[LayerToRound]:
        for key, moments in measure_moments(model, by_key, feeds, threads=threads):
            (region, place), wanted = places[key], by_key[key]
            bounds = [pair_bound(region, place, f) for f in wanted]
            yield LayerToRound(key, model.matrix(place), wanted, techniques.method, moments.hessian, bounds)

    rounded: dict[WeightKey, QuantizedWeight] = {}
    workers = threads if work > WORTH_PROCESSES else 1
    # beside the runtime's own threads BLAS is 6 times slower with two
    with threadpool_limits(1, user_api="blas"), closing(rounded_layers(layers(), workers)) as results:
        for name, found in results:
            for weight_format, weight in zip(by_key[name], found, strict=True):
                rounded[name, weight_format.name] = weight
                done((name, weight_format.name), weight)
    return {key: rounded[key] for key in formats if key in rounded}
