"""Rescaling: channels of the fp32 model scaled against each other, where a quick quantized model gains by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.dialects import Dialect
from onnxmpq.errors import CrashError
from onnxmpq.files import Archive
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.menu import Menu, bounded_activations, observed_tensors, weight_formats, within_float16
from onnxmpq.model import Model
from onnxmpq.progress import Tick
from onnxmpq.ranges import observe_ranges
from onnxmpq.rescale.apply import rescaled
from onnxmpq.rescale.channels import Channels, Ids, find_channels
from onnxmpq.rescale.factors import CANDIDATES, candidate_factors
from onnxmpq.rescale.reuse import reused_extent
from onnxmpq.rounding import FloatArray
from onnxmpq.samples import FEWEST_DECIDING, Samples
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Evaluator, OutputKind, make_divergence
from onnxmpq.weights import LONGEST_S, Techniques, round_for_inputs
from onnxmpq.workbench import prepare_bench

AS_IT_IS = "as it is"
LEAST_GAIN = 0.3
"""Rounding anew moves a quick model's divergence by up to a quarter whatever the factors are; less is no gain."""
ROUNDED = "{}, GPTQ"  # the name of the second look


@dataclass(frozen=True, eq=False)
class Rescaling:
    """model: the one to go on with. factors: float32 by channel, None where nothing was rescaled. order: int64 by
    channel (`reordered`), None where all kept their places.

    losses: divergence of the quick model, "as it is" and by candidate.
    """

    model: Model
    factors: FloatArray | None = None
    order: Ids | None = None
    losses: Mapping[str, float] = field(default_factory=dict)


def rescale(
    model: Model,
    menu: Menu,
    dialect: Dialect,
    data: Samples,
    kinds: Mapping[str, OutputKind] | None,
    small: bool,
    techniques: Techniques,
    context: Context,
    *,
    exact_integers: bool = False,
) -> Rescaling:
    """The model with the factors whose quick model is closest to fp32, if it is clearly closer than without any.

    In a quick model every layer has one scheme (`_quick_scheme`). Its weights are rounded to nearest, where that looks
    promising also for the deciding samples, and the others judge it: more of them see less noise. exact_integers: of
    the sessions that judge.
    """
    wanted = [name for name, (technique, _) in CANDIDATES.items() if technique in techniques]
    channels = find_channels(model.structure)
    schemes = {r.name: s for r in model.layers if (s := _quick_scheme(menu[r.name], small)) is not None}
    if not wanted or not channels.count or not schemes or len(data.deciding) < FEWEST_DECIDING:
        return Rescaling(model)
    extent = reused_extent(context, model, channels, data.deciding)
    stay = _of_equal_weights(model, channels)
    tried = {name: candidate_factors(name, extent, channels) for name in wanted}
    for factors in tried.values():
        factors[stay] = 1.0
    plain = {AS_IT_IS: np.ones(channels.count, np.float32), **tried}
    key = content_hash(
        *("rescaled", programs(), model_hash(model), feeds_hash(data.rounding), feeds_hash(data.deciding)),
        *(techniques, kinds, {name: (s.name, s.weight) for name, s in schemes.items()}, plain, exact_integers),
    )
    losses = context.cache.get(key, lambda entry: _read(entry, plain))
    if losses is None:
        quick = _QuickModels(
            model, channels, schemes, dialect, data, kinds or {}, techniques, context, exact_integers=exact_integers
        )
        try:
            with context.progress.stage("rescaling channels", len(plain) + 2) as tick:
                losses = _losses(quick, plain, tick)
        except CrashError as error:
            context.progress.warn(f"no channels are rescaled, a quick quantized model cannot judge it: {error}")
            return Rescaling(model)
        context.cache.put(key, Archive({}, losses))
    best = min(tried, key=lambda name: losses[name])
    rounded, before = losses.get(ROUNDED.format(best)), losses.get(ROUNDED.format(AS_IT_IS))
    kept = rounded is not None and before is not None and _clearly_less(rounded, before)
    context.progress.detail(
        f"rescaling {channels.count} channels: {best if kept else 'nothing'} kept; divergence of a quick model "
        + ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
    )
    if not kept:
        return Rescaling(model, losses=losses)
    return Rescaling(rescaled(model, channels, tried[best]), tried[best], losses=losses)


def _of_equal_weights(model: Model, channels: Channels) -> NDArray[np.bool_]:
    """bool [channels.count]: channels of weights that several layers have under names of their own, as behind Identity.

    They are in the file once as long as they are equal, which other factors for each would end.
    """
    tensors: dict[str, set[str]] = {}
    for key, first in model.shared_weights.items():
        tensors.setdefault(first, set()).add(model.weights[key][1].tensor)
    equal = {name for names in tensors.values() if len(names) > 1 for name in names}
    stay = np.zeros(channels.count + 1, bool)  # the last entry is that of a factor that is always 1
    for role in channels.roles:
        if role.constant in equal:
            stay[role.ids.ravel()] = True
    return stay[:-1]


def _read(entry: Archive, factors: Iterable[str]) -> dict[str, float]:
    """Inverse of an entry of `_losses`. Raises ValueError or TypeError for those of other candidates."""
    losses, names = dict(entry.meta), set(factors)
    if not names <= set(losses) <= names | {ROUNDED.format(name) for name in names}:
        raise ValueError("losses of other candidates")
    if not all(isinstance(loss, float) and loss >= 0 for loss in losses.values()):
        raise ValueError("losses that are not numbers")
    return losses


def _losses(quick: _QuickModels, factors: Mapping[str, FloatArray], tick: Tick) -> dict[str, float]:
    """Rounded to nearest for all candidates, the first of which leaves the model as it is; where the best of them is
    clearly better, those two once more as they would ship. tick: gets models done, at most two more than candidates."""
    losses = {}
    for name, candidate in factors.items():
        losses[name] = quick.loss(candidate, as_shipped=False)
        tick(1)
    best = min(factors, key=lambda name: losses[name])
    if _clearly_less(losses[best], losses[AS_IT_IS]):
        for name in (AS_IT_IS, best):
            losses[ROUNDED.format(name)] = quick.loss(factors[name], as_shipped=True)
            tick(1)
    return losses


def _clearly_less(loss: float, before: float) -> bool:
    return loss < (1 - LEAST_GAIN) * before


LONGEST_TRIAL_S = LONGEST_S / 10
"""CPU seconds for weights of a model that is never whole in memory, rounded for one trial of factors."""


class _QuickModels:
    """Quick quantized forms of rescaled models, against the fp32 one."""

    def __init__(
        self,
        model: Model,
        channels: Channels,
        schemes: Mapping[str, Scheme],
        dialect: Dialect,
        data: Samples,
        kinds: Mapping[str, OutputKind],
        techniques: Techniques,
        context: Context,
        *,
        exact_integers: bool,
    ) -> None:
        self.model, self.channels, self.schemes, self.dialect = model, channels, schemes, dialect
        self.data, self.techniques, self.context = data, techniques, context.silent
        divergence, _ = make_divergence(model, data.rounding, 1, threads=context.threads, kinds=kinds)
        settings = context.quality_settings(exact_integers=exact_integers)
        self.evaluator = Evaluator.of(model, divergence, data.rounding, settings)

    def loss(self, factors: FloatArray, *, as_shipped: bool) -> float:
        """Divergence of the quick model on the samples that its weights were not rounded for."""
        with self.model.store.passing():
            return self._loss(factors, as_shipped=as_shipped)

    def _loss(self, factors: FloatArray, *, as_shipped: bool) -> float:
        model = rescaled(self.model, self.channels, factors)
        wanted = Menu({r.name: (self.schemes[r.name],) if r.name in self.schemes else () for r in model.regions})
        observation = observe_ranges(model, observed_tensors(model, wanted), self.data.deciding, self.context)
        bounded = bounded_activations(model, wanted, observation.histograms)
        menu = within_float16(model, bounded, observation.histograms)
        bench = prepare_bench(model, menu, observation, self.dialect, self.context)
        if as_shipped:
            formats = weight_formats(model, menu)
            rounded = round_for_inputs(
                model, formats, self.data.deciding, self.techniques, self.context, longest_s=LONGEST_TRIAL_S
            )
            bench = bench.with_weights(rounded)
        return self.evaluator.loss(bench.build({name: row[0] for name, row in menu.items() if row}))


def _quick_scheme(schemes: Sequence[Scheme], small: bool) -> Scheme | None:
    """One with 8-bit weights, or with the smallest where size counts; quantized activations before float ones."""

    def rank(scheme: Scheme) -> tuple[int, bool]:
        bits = scheme.weight.bits if scheme.weight else 0
        return bits if small else -bits, not scheme.reads.quantized

    return min((s for s in schemes if s.weight is not None), key=rank, default=None)
