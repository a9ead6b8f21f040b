"""First rounding, before any plan: every (layer, format) for the inputs that the layer has in the fp32 model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from threadpoolctl import threadpool_limits

from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.rounding.types import WeightFormat
from onnxmpq.statistics import measure_moments
from onnxmpq.weights.techniques import Techniques

WeightKey = tuple[str, str]  # region, weight format
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
    rounded: dict[WeightKey, QuantizedWeight] = {}
    with threadpool_limits(1, user_api="blas"):  # beside the runtime's own threads BLAS is 6 times slower with two
        _round_chunks(model, by_region, feeds, techniques, threads, rounded, done)
    return rounded


def _round_chunks(
    model: Model,
    by_region: Mapping[str, list[WeightFormat]],
    feeds: Feeds,
    techniques: Techniques,
    threads: int,
    rounded: dict[WeightKey, QuantizedWeight],
    done: Done,
) -> None:
    regions = {r.name: r for r in model.layers}
    for name, moments in measure_moments(model, [regions[n] for n in by_region], feeds, threads=threads):
        weight = model.weight(regions[name])
        for weight_format in by_region[name]:
            key = name, weight_format.name
            rounded[key] = quantize_weight(weight, weight_format, method=techniques.method, hessian=moments.hessian)
            done(key, rounded[key])
