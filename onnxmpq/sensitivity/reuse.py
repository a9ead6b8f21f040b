"""Effects, each taken from the cache if it is there.

Entries are single perturbations: what is measured of one does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Literal

import numpy as np

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model
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
    found = {what: entry for what, key in keys.items() if (entry := context.cache.get(key)) is not None}
    missing = Perturbations(
        {k: w for k, w in tries.weights.items() if ("weight", k) not in found},
        {t: row for t, row in tries.activations.items() if ("activation", t) not in found},
        {k: params for k, params in tries.inputs.items() if ("input", k) not in found},
        {k: spelling for k, spelling in tries.kernels.items() if ("kernel", k) not in found},
    )
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


_Try = tuple[Literal["weight", "activation", "input", "kernel"], Any]  # what is perturbed, and its key


def _of_effects(effects: Effects) -> dict[_Try, Archive]:
    """An entry for each change; those of activations with the parameters they belong to."""
    return {
        **{("weight", k): Archive({"change": change}) for k, change in effects.weights.items()},
        **{
            ("activation", t): Archive({"change": c}, asdict(effects.params[t])) for t, c in effects.activations.items()
        },
        **{("input", k): Archive({"change": change}) for k, change in effects.inputs.items()},
        **{("kernel", k): Archive({"change": change}) for k, change in effects.kernels.items()},
    }


def _to_effects(frame: Frame, entries: Mapping[_Try, Archive]) -> Effects:
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
