"""Effects, each taken from the cache if it is there.

Entries are single perturbations: what is measured of one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any, Literal

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model, float_sources
from onnxmpq.progress import Tick
from onnxmpq.ranges import QuantParams
from onnxmpq.sensitivity.divergence import Code, Divergence, OutputView
from onnxmpq.sensitivity.effects import Effects, Frame, Perturbations, fit_frame, sketch_width
from onnxmpq.sensitivity.measure import measure_effects
from onnxmpq.sensitivity.output_kinds import OutputKind
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
    tried: dict[_Try, object] = {
        **{("weight", k): w for k, w in tries.weights.items()},
        **{("activation", t): row for t, row in tries.activations.items()},
        **{("input", k): params for k, params in tries.inputs.items()},
        **{("kernel", k): spelling for k, spelling in tries.kernels.items()},
    }
    keys = {what: content_hash(measured_in, what, value) for what, value in tried.items()}
    found: dict[_Try, _Found] = {}
    for what, key in keys.items():
        known = context.cache.get(key, partial(_to_effect, what=what, frame=frame, tries=tries))
        if known is not None:
            found[what] = known
    missing = Perturbations(
        {k: w for k, w in tries.weights.items() if ("weight", k) not in found},
        {t: row for t, row in tries.activations.items() if ("activation", t) not in found},
        {k: params for k, params in tries.inputs.items() if ("input", k) not in found},
        {k: spelling for k, spelling in tries.kernels.items() if ("kernel", k) not in found},
    )
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


_Try = tuple[Literal["weight", "activation", "input", "kernel"], Any]  # what is perturbed, and its key
_Found = tuple[Code, QuantParams | None]  # the change, and of an activation the parameters it belongs to


def _of_effects(effects: Effects) -> dict[_Try, _Found]:
    return {
        **{("weight", k): (change, None) for k, change in effects.weights.items()},
        **{("activation", t): (change, effects.params[t]) for t, change in effects.activations.items()},
        **{("input", k): (change, None) for k, change in effects.inputs.items()},
        **{("kernel", k): (change, None) for k, change in effects.kernels.items()},
    }


def _of_effect(effect: _Found) -> Archive:
    change, params = effect
    return Archive({"change": change}, None if params is None else asdict(params))


def _to_effect(entry: Archive, what: _Try, frame: Frame, tries: Perturbations) -> _Found:
    """Inverse of `_of_effect`. Raises ValueError or TypeError for the effect of something else."""
    change = np.asarray(entry.array("change", np.float32, *frame.reference.shape), np.float32)
    if what[0] != "activation":
        return change, None
    given = dict(entry.meta)
    params = next((p for p in tries.activations[what[1]] if asdict(p) == given), None)
    if params is None:
        raise ValueError("parameters that were not tried")
    return change, params


def _to_effects(frame: Frame, found: Mapping[_Try, _Found]) -> Effects:
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
