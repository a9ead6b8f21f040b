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

WeightKey = tuple[str, str]  # region, weight format
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

    What cannot be rounded that way (embeddings, transposed convolutions) is left out, and everything without GPTQ.
    """
    if techniques.method == "nearest":
        return {}
    by_region: dict[str, list[WeightFormat]] = {}
    for (name, _), weight_format in formats.items():
        by_region.setdefault(name, []).append(weight_format)
    regions = {r.name: r for r in model.layers}
    work = sum(regions[name].params.parameters for name, _ in formats)

    def layers() -> Iterator[LayerToRound]:
        for name, moments in measure_moments(model, [regions[n] for n in by_region], feeds, threads=threads):
            region, wanted = regions[name], by_region[name]
            bounds = [pair_bound(region, f) for f in wanted]
            yield LayerToRound(name, model.weight(region), wanted, techniques.method, moments.hessian, bounds)

    rounded: dict[WeightKey, QuantizedWeight] = {}
    workers = threads if work > WORTH_PROCESSES else 1
    # beside the runtime's own threads BLAS is 6 times slower with two
    with threadpool_limits(1, user_api="blas"), closing(rounded_layers(layers(), workers)) as results:
        for name, found in results:
            for weight_format, weight in zip(by_region[name], found, strict=True):
                rounded[name, weight_format.name] = weight
                done((name, weight_format.name), weight)
    return {key: rounded[key] for key in formats if key in rounded}
