"""Effects, each taken from the cache if it is there.

Entries are single perturbations: what is measured of one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model
from onnxmpq.progress import Tick
from onnxmpq.ranges import QuantParams
from onnxmpq.sensitivity.block_effects import measure_by_blocks
from onnxmpq.sensitivity.divergence import Code, Divergence, OutputView
from onnxmpq.sensitivity.effects import ByBlocks, Effects, Frame, Perturbations, Try, fit_frame, sketch_width
from onnxmpq.sensitivity.gains import Gain
from onnxmpq.sensitivity.measure import measure_effects
from onnxmpq.sensitivity.output_kinds import OutputKind
from onnxmpq.sensitivity.pooled import PooledDivergence
from onnxmpq.sensitivity.spread import spread_effects


def reused_effects(
    context: Context,
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    kinds: Mapping[str, OutputKind],
    tick: Tick,
    called: str = "effects",
) -> Effects:
    """`measure_effects`: by weight and by activation tensor. called: what is said to be reused."""
    common = content_hash("effects", programs(), model_hash(model), feeds_hash(feeds))
    frame = _frame(context, common, model, feeds, kinds, tries.count)
    measured_in = content_hash(common, frame.divergence)
    tried = tries.by_try
    keys = {what: content_hash(measured_in, what, value) for what, value in tried.items()}
    found = {what: entry for what, key in keys.items() if (entry := context.cache.get(key)) is not None}
    missing = tries.among(tried.keys() - found.keys())
    tick(tries.count - missing.count)

    def keep(part: Effects) -> None:  # at once: what a run has measured before it is stopped is not lost
        for what, entry in _of_effects(part).items():
            context.cache.put(keys[what], entry)
            found[what] = entry

    if missing.count and context.elsewhere is not None:
        spread_effects(context.elsewhere, measured_in, model, feeds, missing, frame, tick=tick, keep=keep)
    elif missing.count:
        measure_effects(model, feeds, missing, threads=context.threads, frame=frame, tick=tick, keep=keep)
    context.cache.count(called, tries.count - missing.count, tries.count)
    return _to_effects(frame, {what: found[what] for what in tried if what in found})


def reused_effects_by_blocks(
    context: Context,
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    kinds: Mapping[str, OutputKind],
    tick: Tick,
    called: str = "effects",
) -> Effects:
    """`measure_by_blocks`: all perturbations together, since gains come from some of them."""
    common = content_hash("effects", programs(), model_hash(model), feeds_hash(feeds))
    frame = _frame(context, common, model, feeds, kinds, tries.count)
    together = content_hash(common, frame.divergence, "by blocks", list(tries.by_try.items()))
    about = context.cache.get(together)
    keys = {what: content_hash(together, what) for what in tries.by_try}
    found = {what: entry for what, key in keys.items() if about and (entry := context.cache.get(key)) is not None}
    context.cache.count(called, len(found) and tries.count, tries.count)
    if about is not None and found.keys() == keys.keys():
        tick(tries.count)
        nothing = np.zeros_like(next(iter(found.values())).arrays["change"], np.float32)
        known = replace(_to_effects(frame, found), reference=nothing)
        return replace(known, by_blocks=_to_blocks(frame, about.meta))
    effects = measure_by_blocks(model, feeds, tries, frame, threads=context.threads, tick=tick)
    if effects.by_blocks is not None:
        for what, entry in _of_effects(effects).items():
            context.cache.put(keys[what], entry)
        context.cache.put(together, Archive({}, _of_blocks(effects.by_blocks)))
    return effects


def _of_blocks(known: ByBlocks) -> dict[str, Any]:
    return {
        "curved": [curvature is not None for curvature in known.pooled.curvatures],
        "levels": known.pooled.levels,
        "trusts": known.pooled.trusts,
        "idle": sorted(known.idle),
        "gains": {tensor: asdict(gain) for tensor, gain in known.gains.items()},
    }


def _to_blocks(frame: Frame, held: Mapping[str, Any]) -> ByBlocks:
    """Inverse of `_of_blocks`."""
    pooled = PooledDivergence.restored(
        frame.divergence, frame.reference, held["curved"], held["levels"], held["trusts"]
    )
    return ByBlocks(pooled, frozenset(held["idle"]), {t: Gain(**gain) for t, gain in held["gains"].items()})


def _of_effects(effects: Effects) -> dict[Try, Archive]:
    """An entry for each change; those of activations with the parameters they belong to."""
    entries = {what: Archive({"change": change}) for what, change in effects.by_try.items()}
    params = {Try("activation", t): asdict(p) for t, p in effects.params.items()}
    return entries | {what: Archive(entries[what].arrays, held) for what, held in params.items()}


def _to_effects(frame: Frame, entries: Mapping[Try, Archive]) -> Effects:
    """Inverse of `_of_effects`, in the order of the entries: sums do not depend on which of them were measured now."""
    effects = Effects(frame.divergence, frame.reference, {}, {}, {})
    into: dict[str, dict[Any, Code]] = {
        "weight": effects.weights,
        "activation": effects.activations,
        "input": effects.inputs,
        "kernel": effects.kernels,
    }
    for (kind, key), entry in entries.items():
        into[kind][key] = np.asarray(entry.arrays["change"], np.float32)
        if kind == "activation":
            effects.params[key] = QuantParams(**entry.meta)
    return effects


def _frame(
    context: Context, common: str, model: Model, feeds: Feeds, kinds: Mapping[str, OutputKind], entries: int
) -> Frame:
    """`fit_frame`: views of the fp32 outputs, and their codes."""
    key = content_hash(common, "frame", kinds, sketch_width(len(feeds), entries))
    entry = context.cache.get(key)
    if entry is not None:
        views = tuple(_to_view(given, entry, number) for number, given in enumerate(entry.meta))
        return Frame(Divergence(views), np.asarray(entry.arrays["reference"], np.float32))
    frame = fit_frame(model, feeds, entries, threads=context.threads, kinds=kinds)
    arrays, rest = {"reference": frame.reference}, []
    for number, view in enumerate(frame.divergence.views):
        parts = {f.name: getattr(view, f.name) for f in fields(view)}
        arrays |= {f"view{number}.{n}": values for n, values in parts.items() if isinstance(values, np.ndarray)}
        rest.append({n: value for n, value in parts.items() if not isinstance(value, np.ndarray)})
    context.cache.put(key, Archive(arrays, rest))
    return frame


def _to_view(given: Mapping[str, Any], entry: Archive, number: int) -> OutputView:
    prefix = f"view{number}."
    arrays: dict[str, Any] = {n.removeprefix(prefix): v for n, v in entry.arrays.items() if n.startswith(prefix)}
    return OutputView(**given, **arrays)
