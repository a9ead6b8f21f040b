"""Effects, each taken from the cache if it is there.

Entries are single perturbations: what is measured of one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model, float_sources
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
from onnxmpq.sensitivity.spread_blocks import Spread


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
    found: dict[Try, _Found] = {}
    for what, key in keys.items():
        known = context.cache.get(key, partial(_to_effect, what=what, shape=frame.reference.shape, tries=tries))
        if known is not None:
            found[what] = known
    missing = tries.among(tried.keys() - found.keys())
    tick(tries.count - missing.count)

    def keep(part: Effects) -> None:  # at once: what a run has measured before it is stopped is not lost
        for what, effect in _of_effects(part).items():
            context.cache.put(keys[what], _of_effect(effect))
            found[what] = effect

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
    keys = {what: content_hash(together, what) for what in tries.by_try}
    about = context.cache.get(together, partial(_to_blocks, frame=frame))
    found: dict[Try, _Found] = {}
    if about is not None:
        for what, key in keys.items():
            known = context.cache.get(key, partial(_to_effect, what=what, shape=(len(feeds), about.width), tries=tries))
            if known is not None:
                found[what] = known
    whole = about is not None and found.keys() == keys.keys()
    context.cache.count(called, tries.count if whole else 0, tries.count)
    if about is not None and whole:
        tick(tries.count)
        nothing = np.zeros((len(feeds), about.width), np.float32)
        return replace(_to_effects(frame, found), reference=nothing, by_blocks=about)
    spread = None if context.elsewhere is None else Spread(context.elsewhere, together)
    effects = measure_by_blocks(model, feeds, tries, frame, threads=context.threads, tick=tick, spread=spread)
    if effects.by_blocks is not None:
        for what, effect in _of_effects(effects).items():
            context.cache.put(keys[what], _of_effect(effect))
        context.cache.put(together, Archive({}, _of_blocks(effects.by_blocks)))
    return effects


def _of_blocks(known: ByBlocks) -> dict[str, Any]:
    return {
        "width": known.width,
        "curved": [curvature is not None for curvature in known.pooled.curvatures],
        "levels": known.pooled.levels,
        "trusts": known.pooled.trusts,
        "idle": sorted(known.idle),
        "gains": {tensor: asdict(gain) for tensor, gain in known.gains.items()},
    }


def _to_blocks(entry: Archive, frame: Frame) -> ByBlocks:
    """Inverse of `_of_blocks`. Raises KeyError, TypeError or ValueError for something else."""
    held = entry.meta
    pooled = PooledDivergence.restored(
        frame.divergence, frame.reference, held["curved"], held["levels"], held["trusts"]
    )
    gains = {tensor: Gain(**gain) for tensor, gain in held["gains"].items()}
    return ByBlocks(pooled, frozenset(held["idle"]), gains, int(held["width"]))


_Found = tuple[Code, QuantParams | None]  # the change, and of an activation the parameters it belongs to


def _of_effects(effects: Effects) -> dict[Try, _Found]:
    own = {Try("activation", t): params for t, params in effects.params.items()}
    return {what: (change, own.get(what)) for what, change in effects.by_try.items()}


def _of_effect(effect: _Found) -> Archive:
    change, params = effect
    return Archive({"change": change}, None if params is None else asdict(params))


def _to_effect(entry: Archive, what: Try, shape: tuple[int, ...], tries: Perturbations) -> _Found:
    """Inverse of `_of_effect`. shape: of a change. Raises ValueError or TypeError for the effect of something else."""
    change = np.asarray(entry.array("change", np.float32, *shape), np.float32)
    if what.kind != "activation":
        return change, None
    given = dict(entry.meta)
    params = next((p for p in tries.activations[what.key] if asdict(p) == given), None)
    if params is None:
        raise ValueError("parameters that were not tried")
    return change, params


def _to_effects(frame: Frame, found: Mapping[Try, _Found]) -> Effects:
    """Inverse of `_of_effects`, in the order of the tries: sums do not depend on which of them were measured now."""
    effects = Effects(frame.divergence, frame.reference, {}, {}, {})
    into: dict[str, dict[Any, Code]] = {
        "weight": effects.weights,
        "activation": effects.activations,
        "input": effects.inputs,
        "kernel": effects.kernels,
    }
    for (kind, key), (change, params) in found.items():
        into[kind][key] = change
        if params is not None:
            effects.params[key] = params
    return effects


def _frame(
    context: Context, common: str, model: Model, feeds: Feeds, kinds: Mapping[str, OutputKind], entries: int
) -> Frame:
    """`fit_frame`: views of the fp32 outputs, and their codes."""
    key = content_hash(common, "frame", kinds, sketch_width(len(feeds), entries))
    tensors = [*model.output_names, *float_sources(model.structure)]
    known = context.cache.get(key, lambda entry: _to_frame(entry, tensors, len(feeds)))
    if known is not None:
        return known
    frame = fit_frame(model, feeds, entries, threads=context.threads, kinds=kinds)
    arrays, rest = {"reference": frame.reference}, []
    for number, view in enumerate(frame.divergence.views):
        parts = {f.name: getattr(view, f.name) for f in fields(view)}
        arrays |= {f"view{number}.{n}": values for n, values in parts.items() if isinstance(values, np.ndarray)}
        rest.append({n: value for n, value in parts.items() if not isinstance(value, np.ndarray)})
    context.cache.put(key, Archive(arrays, rest))
    return frame


def _to_frame(entry: Archive, tensors: Sequence[str], samples: int) -> Frame:
    """Raises ValueError or TypeError for views of other tensors, or samples of another number."""
    views = tuple(_to_view(given, entry, number) for number, given in enumerate(entry.meta))
    if [v.name for v in views] != list(tensors):
        raise ValueError("outputs of another model")
    divergence = Divergence(views)
    return Frame(divergence, np.asarray(entry.array("reference", np.float32, samples, divergence.width), np.float32))


def _to_view(given: Mapping[str, Any], entry: Archive, number: int) -> OutputView:
    prefix = f"view{number}."
    arrays: dict[str, Any] = {n.removeprefix(prefix): v for n, v in entry.arrays.items() if n.startswith(prefix)}
    view = OutputView(**{**given, **arrays})
    view.check()
    return view
