"""Rounded weights, each taken from the cache if it is there, and the second rounding of a plan.

Entries are single weights: what is rounded for one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive, Array, is_number, is_whole
from onnxmpq.isolation import release_memory
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import LayerWeight, Model, Region
from onnxmpq.progress import ROUNDING, Progress, Tick, duration
from onnxmpq.rounding import MultiplierArray, QuantizedWeight, WeightFormat
from onnxmpq.weights.bound import pair_bound
from onnxmpq.weights.first import WeightKey, round_weights
from onnxmpq.weights.sequence import Compensated
from onnxmpq.weights.techniques import Techniques

Skipped = Callable[[Sequence[str]], None]
VALUE_S: Mapping[str, tuple[float, float]] = {"best": (6e-7, 1e-9), "gptq": (3.6e-7, 1.5e-10), "nearest": (0.0, 0.0)}
"""By method, best first: CPU seconds for a weight's value in one format, and for each input of its row.

GPTQ and descent: means of int8 per channel, dual 4 and 6 bits and 4 bits in blocks of 32, of which dual formats take
1.3 times as long, int8 0.6 times; for 192, 768 and 1024 inputs 0.85, 1.34 and 1.57 µs. GPTQ alone: means of 8 bits in
blocks of 128 and 4 bits in blocks of 32; for 512, 2304 and 6400 inputs 0.45, 0.67 and 1.33 µs (AMD EPYC with
AVX512-VNNI, 2026-11-26). To nearest takes no more than it did before any plan."""
LONGEST_S, LONGEST_IN_SEQUENCE_S = 3600.0, 900.0
"""CPU seconds for weights that are rounded side by side, and for those that are in sequence."""
CROSSED_INPUT_BYTES, CROSSED_VALUE_BYTES, MOST_IN_SEQUENCE_BYTES = 48, 24, 1e9
"""Of rounding in sequence: memory for each pair of a weight's inputs (two sums of crossed moments, their results, and a
system that is solved in float64), for each of its values, and the most for one weight."""


def round_for_inputs(
    model: Model,
    formats: Mapping[WeightKey, WeightFormat],
    feeds: Feeds,
    techniques: Techniques,
    context: Context,
    *,
    longest_s: float | None = None,
    alone: bool = False,
    skipped: Skipped = lambda _: None,
) -> dict[WeightKey, QuantizedWeight]:
    """Weights in these formats, rounded for what their layers read in the fp32 model on the samples.

    Of a model that is never whole in memory those that can be done in `longest_s` of CPU time (`LONGEST_S` unless one
    is given), else none. alone: they are those of one plan, which may do with less than the full technique. skipped:
    gets the keys of those for which the samples have too few rows; that is said.
    """
    choose, keys = plan_within_time if alone else within_time, [key for key, _ in formats]
    techniques = choose(model, keys, techniques, context.progress, longest_s or LONGEST_S)
    if techniques.method == "nearest":
        return {}
    if model.store.spill is not None:
        release_memory()  # of stages before: rounding takes a good part of what there may be
    few: list[str] = []
    with context.progress.stage(ROUNDING, len(formats)) as tick:
        found = rounded(context, model, formats, feeds, techniques, tick, few.append)
    if few:
        skipped(few)
        context.progress.say(few_rows_words(few))
    return found


def few_rows_words(keys: Sequence[str]) -> str:
    """That these weights are rounded to nearest for want of rows, and what to do about it."""
    which = f"{len(keys)} weights are" if len(keys) > 1 else "1 weight is"
    return (
        f"{which} rounded to nearest: the samples have too few rows of inputs to round for them; give more "
        "with --samples"
    )


def within_time(
    model: Model, keys: Iterable[str], techniques: Techniques, progress: Progress, longest_s: float = LONGEST_S
) -> Techniques:
    """The techniques by which a model that is never whole in memory is rounded for its inputs before there is a plan:
    those that are asked for, if they take at most `longest_s` of CPU time; says so. Of other models all of them.

    keys: of the weights, each once for every format.
    """
    asked = techniques.method
    if model.store.spill is None or asked == "nearest":
        return techniques
    seconds = rounding_seconds(model, keys, asked)
    if seconds <= longest_s:
        progress.say(f"weights are rounded for their inputs: {duration(seconds)} of CPU time")
        return techniques
    progress.say(
        "plans are compared with weights rounded to nearest: rounding all that are offered for their inputs would take "
        f"{duration(seconds)} of CPU time"
    )
    return replace(techniques, used=techniques.used - _FOR_INPUTS)


def plan_within_time(
    model: Model, keys: Iterable[str], techniques: Techniques, progress: Progress, longest_s: float = LONGEST_S
) -> Techniques:
    """The same for the weights of one plan: by the best method that takes at most `longest_s`."""
    asked = techniques.method
    if model.store.spill is None or asked == "nearest":
        return techniques
    places = list(keys)
    method, seconds = quick_enough(model, places, asked, longest_s)
    takes = duration(seconds or rounding_seconds(model, places, "gptq"))
    if method == asked:
        progress.say(f"the plan's weights are rounded for their inputs: {takes} of CPU time")
        return techniques
    if method == "gptq":
        full = duration(rounding_seconds(model, places, asked))
        progress.say(
            f"the plan's weights are rounded for their inputs by GPTQ alone: {takes} of CPU time; with the descent "
            f"behind it {full}"
        )
        return replace(techniques, used=techniques.used - {"descent"})
    progress.warn(
        f"weights are rounded to nearest: rounding the plan's for their inputs would take {takes} of CPU time"
    )
    return replace(techniques, used=techniques.used - _FOR_INPUTS)


_FOR_INPUTS = {"gptq", "descent", "cross"}


def in_sequence(model: Model, keys: Collection[str], techniques: Techniques, progress: Progress) -> Techniques:
    """The techniques by which a plan of a model that is never whole in memory can be rounded once more, in sequence, on
    one core and within memory; of other models all of them."""
    if model.store.spill is None or "cross" not in techniques:
        return techniques
    largest = _crossed_bytes(model, keys)
    method, _ = quick_enough(model, list(keys), techniques.method, LONGEST_IN_SEQUENCE_S)
    if method == "nearest" or largest > MOST_IN_SEQUENCE_BYTES:
        takes = f"{largest / 1e9:.1f} GB of memory" if method != "nearest" else "too long on one core"
        progress.say(f"the plan's weights are not rounded once more in sequence, which takes {takes}")
        return replace(techniques, used=techniques.used - {"cross"})
    return techniques if method == techniques.method else replace(techniques, used=techniques.used - {"descent"})


def fits_in_sequence(model: Model, keys: Iterable[str]) -> bool:
    """True where some plan of these weights could be rounded in sequence: by their memory, not by their number."""
    return _crossed_bytes(model, keys) <= MOST_IN_SEQUENCE_BYTES


def _crossed_bytes(model: Model, keys: Iterable[str]) -> float:
    """Memory for the one of these weights that takes the most in sequence."""
    places = [model.weights[key][1] for key in keys]
    return max((CROSSED_INPUT_BYTES * p.fan_in**2 + CROSSED_VALUE_BYTES * p.parameters for p in places), default=0)


def quick_enough(
    model: Model, keys: Sequence[str], asked: str = "best", longest_s: float = LONGEST_S
) -> tuple[str, float]:
    """The best method, from the one that is asked for on, that takes at most `longest_s`; and its CPU seconds.

    keys: of the weights, each once for every format.
    """
    methods = list(VALUE_S)[list(VALUE_S).index(asked) :]
    return next((m, s) for m in methods if (s := rounding_seconds(model, keys, m)) <= longest_s)


def rounding_seconds(model: Model, keys: Iterable[str], method: str = "best") -> float:
    """CPU seconds that rounding these weights for their inputs will take. keys: each once for every format.

    Tables that are looked up in have no moments of inputs and are left out of it.
    """
    weights, (value_s, input_s) = model.weights, VALUE_S[method]
    places = [weights[key][1] for key in keys if not weights[key][0].operator.looks_up]
    return sum(place.parameters * (value_s + input_s * place.fan_in) for place in places)


def rounded(
    context: Context,
    model: Model,
    formats: Mapping[WeightKey, WeightFormat],
    feeds: Feeds,
    techniques: Techniques,
    tick: Tick,
    skipped: Callable[[str], None] = lambda _: None,
) -> dict[WeightKey, QuantizedWeight]:
    """`round_weights`: by region and format."""
    common = content_hash("rounded", programs(), model_hash(model), feeds_hash(feeds), techniques)
    keys = {key: content_hash(common, key[0], spec) for key, spec in formats.items()}
    places = model.weights
    found = {
        k: weight.kept_by(model.store.kept)
        for k, key in keys.items()
        if (weight := context.cache.get(key, _reader(formats[k], *places[k[0]]))) is not None
    }
    tick(len(found))
    missing = {key: spec for key, spec in formats.items() if key not in found}

    def done(key: WeightKey, weight: QuantizedWeight) -> None:
        context.cache.put(keys[key], _of_weight(weight))
        tick(1)

    fresh = round_weights(
        model,
        missing,
        feeds,
        techniques,
        threads=context.threads,
        done=done,
        elsewhere=context.elsewhere,
        skipped=skipped,
    )
    context.cache.count("rounded weights", len(found), len(found) + len(fresh))
    together = {**found, **fresh}
    return {key: together[key] for key in formats if key in together}


def _of_weight(weight: QuantizedWeight) -> Archive:
    arrays: dict[str, Array] = {"codes": weight.codes, "scales": weight.scales}
    if weight.multipliers is not None:
        arrays["multipliers"] = weight.multipliers
    return Archive(arrays, [weight.block, weight.tensor_scale])


def _reader(weight_format: WeightFormat, region: Region, place: LayerWeight) -> Callable[[Archive], QuantizedWeight]:
    """Reads the weight of this layer. Raises ValueError for one that breaks the bound on pairs."""
    bound = pair_bound(region, place, weight_format)

    def read(entry: Archive) -> QuantizedWeight:
        weight = _to_weight(entry, weight_format, place.out_channels, place.fan_in)
        if bound is not None and not bound.obeyed(weight.int8_codes()).all():
            raise ValueError("pairs of weights that saturate in x86 kernels")
        return weight

    return read


def _to_weight(entry: Archive, weight_format: WeightFormat, channels: int, inputs: int) -> QuantizedWeight:
    """Inverse of `_of_weight`. Raises ValueError or TypeError for another format or shape."""
    block, tensor_scale = entry.meta
    if not is_whole(block) or block < 1 or not is_number(tensor_scale):
        raise ValueError("a weight without a block and a scale")
    blocks = -(-inputs // block)
    multipliers: MultiplierArray | None = None
    if weight_format.has_multipliers:
        multipliers = np.asarray(entry.array("multipliers", np.uint8, channels, blocks), np.uint8)
    weight = QuantizedWeight(
        weight_format,
        np.asarray(entry.array("codes", np.int8, channels, inputs), np.int8),
        np.asarray(entry.array("scales", np.float32, *weight_format.scale_shape(channels, blocks)), np.float32),
        multipliers,
        block,
        float(tensor_scale),
    )
    weight_format.check_values(weight)
    return weight


def compensated(
    context: Context,
    model: Model,
    weights: Mapping[str, QuantizedWeight],
    depends_on: Sequence[object],
    compute: Callable[[], Compensated],
) -> Compensated:
    """`compute()`, a second rounding of `weights` of the model.

    depends_on: hashes and values of all else that it depends on.
    """
    key = content_hash("compensated", programs(), weights, list(depends_on))
    known = context.cache.get(key, lambda entry: _to_compensated(entry, model, weights))
    context.cache.count("second rounding", int(known is not None), 1)
    if known is not None:
        return known
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
    return Archive(
        arrays,
        {
            **names,
            "blocks": blocks,
            "losses": dict(found.losses),
            "kept": list(found.kept),
            "few_rows": list(found.few_rows),
        },
    )


def _to_compensated(entry: Archive, model: Model, weights: Mapping[str, QuantizedWeight]) -> Compensated:
    """Inverse of `_of_compensated`, for the weights that were rounded again.

    Raises ValueError, KeyError or TypeError for another plan's.
    """
    meta, arrays = entry.meta, entry.arrays
    if sorted(meta["weights"]) != sorted(weights) or not set(meta["biases"]) <= set(weights):
        raise ValueError("other weights than those of the plan")
    again: dict[str, QuantizedWeight] = {}
    places = model.weights
    for number, (name, block) in enumerate(zip(meta["weights"], meta["blocks"], strict=True)):
        prefix = f"weight{number}."
        parts = {n.removeprefix(prefix): values for n, values in arrays.items() if n.startswith(prefix)}
        again[name] = _reader(weights[name].format, *places[name])(Archive(parts, block))
    biases = {
        name: np.asarray(entry.array(f"bias{number}", np.float32, len(weights[name].codes)), np.float32)
        for number, name in enumerate(meta["biases"])
    }
    losses, kept, few = dict(meta["losses"]), tuple(meta["kept"]), tuple(meta["few_rows"])
    if not all(isinstance(v, float) for v in losses.values()) or not {"first", *kept} <= set(losses):
        raise ValueError("losses of other steps")
    if not set(few) <= set(weights):
        raise ValueError("other weights than those of the plan")
    return Compensated(again, biases, losses, kept, few)
