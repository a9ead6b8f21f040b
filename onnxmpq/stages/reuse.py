"""The slow steps that depend on content alone, each taken from the cache as far as it is there.

Every function here stands for one of another room, with the same result: `observe`, `round_weights`,
`measure_effects`, `compensate`. Entries are as small as the step allows (one tensor, one weight, one perturbation), so
that a menu which differs a little from the last run's still finds everything that is the same; what a step computes for
one of them does not depend on the others. Nothing here is timed: `stages/timings.py` keeps timings, for an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

import numpy as np

from onnxmpq.archive import Archive, Array
from onnxmpq.cache import Cache, content_hash
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model
from onnxmpq.ranges import Observation, QuantParams, observe
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.rounding import QuantizedWeight, WeightFormat
from onnxmpq.sensitivity import Divergence, Effects, Frame, OutputKind, Perturbations, fit_frame, measure_effects
from onnxmpq.sensitivity.divergence import Code, OutputView
from onnxmpq.sensitivity.effects import sketch_width
from onnxmpq.stages.keys import feeds_hash, model_hash, programs
from onnxmpq.stages.threads import workers
from onnxmpq.weights import Compensated, Techniques, WeightKey, round_weights

Tick = Callable[[int], None]


# ---- activation ranges --------------------------------------------------------------------------


def observed(cache: Cache, model: Model, feeds: Feeds, tensors: Sequence[str], tick: Tick) -> Observation:
    """`observe`: histograms by tensor."""
    context = content_hash("histogram", programs(), model_hash(model), feeds_hash(feeds))
    keys = {t: content_hash(context, t) for t in tensors}
    found = {t: entry for t, key in keys.items() if (entry := cache.get(key)) is not None}
    missing = [t for t in tensors if t not in found]
    fresh = Observation({}, {})
    if missing:
        fresh = observe(model, feeds, missing, threads=workers(), tick=tick)
    for tensor in missing:
        cache.put(keys[tensor], _of_histogram(fresh.histograms[tensor], fresh.shapes[tensor]))
    cache.count("activation ranges", len(found), len(tensors))
    known = {t: _to_histogram(entry) for t, entry in found.items()}
    histograms = {**{t: h for t, (h, _) in known.items()}, **fresh.histograms}
    shapes = {**{t: s for t, (_, s) in known.items()}, **fresh.shapes}
    return Observation({t: histograms[t] for t in tensors}, {t: shapes[t] for t in tensors})


def _of_histogram(histogram: Histogram, shape: tuple[int, ...]) -> Archive:
    ends = np.array([histogram.limit, histogram.low, histogram.high])
    return Archive({"counts": histogram.counts, "ends": ends}, list(shape))


def _to_histogram(entry: Archive) -> tuple[Histogram, tuple[int, ...]]:
    limit, low, high = map(float, entry.arrays["ends"])
    return Histogram.of(np.asarray(entry.arrays["counts"], np.int64), limit, low, high), tuple(entry.meta)


# ---- weights ------------------------------------------------------------------------------------


def rounded(
    cache: Cache,
    model: Model,
    formats: Mapping[WeightKey, WeightFormat],
    feeds: Feeds,
    techniques: Techniques,
    tick: Tick,
) -> dict[WeightKey, QuantizedWeight]:
    """`round_weights`: by region and format."""
    context = content_hash("rounded", programs(), model_hash(model), feeds_hash(feeds), techniques)
    keys = {key: content_hash(context, key[0], spec) for key, spec in formats.items()}
    found = {k: _to_weight(entry, formats[k]) for k, key in keys.items() if (entry := cache.get(key)) is not None}
    tick(len(found))
    missing = {key: spec for key, spec in formats.items() if key not in found}

    def done(key: WeightKey, weight: QuantizedWeight) -> None:
        cache.put(keys[key], _of_weight(weight))
        tick(1)

    fresh = round_weights(model, missing, feeds, techniques, threads=workers(), done=done)
    cache.count("rounded weights", len(found), len(found) + len(fresh))
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
    cache: Cache,
    weights: Mapping[str, QuantizedWeight],
    depends_on: Sequence[object],
    compute: Callable[[], Compensated],
) -> Compensated:
    """`compute()`, a second rounding of `weights`. depends_on: hashes and values of all else that it depends on."""
    key = content_hash("compensated", programs(), weights, list(depends_on))
    entry = cache.get(key)
    cache.count("second rounding", int(entry is not None), 1)
    if entry is not None:
        return _to_compensated(entry, weights)
    found = compute()
    cache.put(key, _of_compensated(found))
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


# ---- effects ------------------------------------------------------------------------------------


def effects(
    cache: Cache,
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    kinds: Mapping[str, OutputKind],
    tick: Tick,
    called: str = "effects",
) -> Effects:
    """`measure_effects`: by weight and by activation tensor. called: what is said to be reused."""
    context = content_hash("effects", programs(), model_hash(model), feeds_hash(feeds))
    frame = _frame(cache, context, model, feeds, kinds, tries.count)
    context = content_hash(context, frame.divergence)
    tried: dict[_Try, object] = {
        **{("weight", k): w for k, w in tries.weights.items()},
        **{("activation", t): row for t, row in tries.activations.items()},
        **{("input", k): params for k, params in tries.inputs.items()},
    }
    keys = {what: content_hash(context, what, value) for what, value in tried.items()}
    found = {what: entry for what, key in keys.items() if (entry := cache.get(key)) is not None}
    missing = Perturbations(
        {k: w for k, w in tries.weights.items() if ("weight", k) not in found},
        {t: row for t, row in tries.activations.items() if ("activation", t) not in found},
        {k: params for k, params in tries.inputs.items() if ("input", k) not in found},
    )
    tick(tries.count - missing.count)

    def keep(part: Effects) -> None:  # at once: what a run has measured before it is stopped is not lost
        for what, entry in _of_effects(part).items():
            cache.put(keys[what], entry)
            found[what] = entry

    if missing.count:
        measure_effects(model, feeds, missing, threads=workers(), frame=frame, tick=tick, keep=keep)
    cache.count(called, tries.count - missing.count, tries.count)
    return _to_effects(frame, {what: found[what] for what in tried if what in found})


_Try = tuple[Literal["weight", "activation", "input"], Any]  # what is perturbed, and its key


def _of_effects(effects: Effects) -> dict[_Try, Archive]:
    """An entry for each change; those of activations with the parameters they belong to."""
    return {
        **{("weight", k): Archive({"change": change}) for k, change in effects.weights.items()},
        **{
            ("activation", t): Archive({"change": c}, asdict(effects.params[t])) for t, c in effects.activations.items()
        },
        **{("input", k): Archive({"change": change}) for k, change in effects.inputs.items()},
    }


def _to_effects(frame: Frame, entries: Mapping[_Try, Archive]) -> Effects:
    """Inverse of `_of_effects`, in the order of the entries: sums do not depend on which of them were measured now."""
    effects = Effects(frame.divergence, frame.reference, {}, {}, {})
    into: dict[str, dict[Any, Code]] = {
        "weight": effects.weights,
        "activation": effects.activations,
        "input": effects.inputs,
    }
    for (kind, key), entry in entries.items():
        into[kind][key] = np.asarray(entry.arrays["change"], np.float32)
        if kind == "activation":
            effects.params[key] = QuantParams(**entry.meta)
    return effects


def _frame(
    cache: Cache, context: str, model: Model, feeds: Feeds, kinds: Mapping[str, OutputKind], entries: int
) -> Frame:
    """`fit_frame`: views of the fp32 outputs, and their codes."""
    key = content_hash(context, "frame", kinds, sketch_width(len(feeds), entries))
    entry = cache.get(key)
    if entry is not None:
        views = tuple(_to_view(given, entry, number) for number, given in enumerate(entry.meta))
        return Frame(Divergence(views), np.asarray(entry.arrays["reference"], np.float32))
    frame = fit_frame(model, feeds, entries, threads=workers(), kinds=kinds)
    arrays, rest = {"reference": frame.reference}, []
    for number, view in enumerate(frame.divergence.views):
        parts = {f.name: getattr(view, f.name) for f in fields(view)}
        arrays |= {f"view{number}.{n}": values for n, values in parts.items() if isinstance(values, np.ndarray)}
        rest.append({n: value for n, value in parts.items() if not isinstance(value, np.ndarray)})
    cache.put(key, Archive(arrays, rest))
    return frame


def _to_view(given: Mapping[str, Any], entry: Archive, number: int) -> OutputView:
    prefix = f"view{number}."
    arrays: dict[str, Any] = {n.removeprefix(prefix): v for n, v in entry.arrays.items() if n.startswith(prefix)}
    return OutputView(**given, **arrays)
