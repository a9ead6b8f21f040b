"""Rounded weights, each taken from the cache if it is there, and the second rounding of a plan.

Entries are single weights: what is rounded for one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive, Array
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model
from onnxmpq.progress import ROUNDING, Tick
from onnxmpq.rounding import QuantizedWeight, WeightFormat
from onnxmpq.weights.first import WeightKey, round_weights
from onnxmpq.weights.sequence import Compensated
from onnxmpq.weights.techniques import Techniques


def round_for_inputs(
    model: Model, formats: Mapping[WeightKey, WeightFormat], feeds: Feeds, techniques: Techniques, context: Context
) -> dict[WeightKey, QuantizedWeight]:
    """Weights in these formats, rounded for what their layers read in the fp32 model on the samples."""
    with context.progress.stage(ROUNDING, len(formats)) as tick:
        return rounded(context, model, formats, feeds, techniques, tick)


def rounded(
    context: Context,
    model: Model,
    formats: Mapping[WeightKey, WeightFormat],
    feeds: Feeds,
    techniques: Techniques,
    tick: Tick,
) -> dict[WeightKey, QuantizedWeight]:
    """`round_weights`: by region and format."""
    common = content_hash("rounded", programs(), model_hash(model), feeds_hash(feeds), techniques)
    keys = {key: content_hash(common, key[0], spec) for key, spec in formats.items()}
    found = {
        k: _to_weight(entry, formats[k]) for k, key in keys.items() if (entry := context.cache.get(key)) is not None
    }
    tick(len(found))
    missing = {key: spec for key, spec in formats.items() if key not in found}

    def done(key: WeightKey, weight: QuantizedWeight) -> None:
        context.cache.put(keys[key], _of_weight(weight))
        tick(1)

    fresh = round_weights(
        model, missing, feeds, techniques, threads=context.threads, done=done, elsewhere=context.elsewhere
    )
    context.cache.count("rounded weights", len(found), len(found) + len(fresh))
    together = {**found, **fresh}
    return {key: together[key] for key in formats if key in together}


def _of_weight(weight: QuantizedWeight) -> Archive:
    arrays: dict[str, Array] = {"codes": weight.codes, "scales": weight.scales}
    if weight.multipliers is not None:
        arrays["multipliers"] = weight.multipliers
    return Archive(arrays, [weight.block, weight.tensor_scale])


def _to_weight(entry: Archive, weight_format: WeightFormat) -> QuantizedWeight:
    multipliers = entry.arrays.get("multipliers")
    block, tensor_scale = entry.meta
    return QuantizedWeight(
        weight_format,
        np.asarray(entry.arrays["codes"], np.int8),
        np.asarray(entry.arrays["scales"], np.float32),
        None if multipliers is None else np.asarray(multipliers, np.uint8),
        int(block),
        float(tensor_scale),
    )


def compensated(
    context: Context,
    weights: Mapping[str, QuantizedWeight],
    depends_on: Sequence[object],
    compute: Callable[[], Compensated],
) -> Compensated:
    """`compute()`, a second rounding of `weights`. depends_on: hashes and values of all else that it depends on."""
    key = content_hash("compensated", programs(), weights, list(depends_on))
    entry = context.cache.get(key)
    context.cache.count("second rounding", int(entry is not None), 1)
    if entry is not None:
        return _to_compensated(entry, weights)
    found = compute()
    context.cache.put(key, _of_compensated(found))
    return found


def _of_compensated(found: Compensated) -> Archive:
    arrays: dict[str, Array] = {}
    blocks = []
    for number, weight in enumerate(found.weights.values()):
        entry = _of_weight(weight)
        arrays |= {f"weight{number}.{name}": values for name, values in entry.arrays.items()}
        blocks.append(entry.meta)
    arrays |= {f"bias{number}": values for number, values in enumerate(found.biases.values())}
    names = {"weights": list(found.weights), "biases": list(found.biases)}
    return Archive(arrays, {**names, "blocks": blocks, "losses": dict(found.losses), "kept": list(found.kept)})


def _to_compensated(entry: Archive, weights: Mapping[str, QuantizedWeight]) -> Compensated:
    meta, arrays = entry.meta, entry.arrays
    again: dict[str, QuantizedWeight] = {}
    for number, (name, block) in enumerate(zip(meta["weights"], meta["blocks"], strict=True)):
        prefix = f"weight{number}."
        parts = {n.removeprefix(prefix): values for n, values in arrays.items() if n.startswith(prefix)}
        again[name] = _to_weight(Archive(parts, block), weights[name].format)
    biases = {name: np.asarray(arrays[f"bias{number}"], np.float32) for number, name in enumerate(meta["biases"])}
    return Compensated(again, biases, meta["losses"], tuple(meta["kept"]))
