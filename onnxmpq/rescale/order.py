"""An order of channels that keeps int8 weights within the bound on pairs (`rounding/overflow.py`) at least cost.

Kernels add the products of two neighbouring input channels in 16 bits. A pair of large weights has to shrink, a large
and a small one do not, so it counts which channels are neighbours. The order of channels that a layer makes is free
where all that read them follow (`exchange.py`). Every output channel of every reader has the same pairs: what is
minimised is the sum of what they lose, each layer's relative to its weight. Which channels are neighbours is a matching
of least weight; it is improved by exchanging two channels as long as that helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.archive import Archive
from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.keys import model_hash, programs
from onnxmpq.menu import Menu
from onnxmpq.model import Model, Region
from onnxmpq.rescale.channels import Channels, Ids
from onnxmpq.rescale.choose import Rescaling
from onnxmpq.rescale.exchange import find_exchangeable, reordered
from onnxmpq.rounding import ALONE, DoubleArray, FloatArray, PairBound, WeightFormat, quantize_weight
from onnxmpq.weights import Techniques, pair_bound

LARGEST_CODE = np.float32(127)
TOGETHER = 512
"""Channels that are ordered among themselves; of more, the first so many, then the next: time grows with the square."""
Indices = NDArray[np.intp]
Costs = tuple[DoubleArray, Indices]
"""Float64 [n, n], by channels: what two of them cost as neighbours; [n], by places: the place beside each one."""


def in_best_order(rescaling: Rescaling, menu: Menu, techniques: Techniques, context: Context) -> Rescaling:
    """The model with channels in an order in which the weights that the bound is for lose less, where there is one."""
    model, formats = rescaling.model, _bounded_formats(rescaling.model, menu)
    channels = find_exchangeable(model.structure)
    formats = {name: f for name, f in formats.items() if name in channels.reads}
    if "channel-order" not in techniques or not formats:
        return rescaling
    key = content_hash("order", programs(), model_hash(model), formats)
    known = context.cache.get(key)
    if known is None:
        with context.progress.stage("ordering channels", 0):
            order, before, after = best_order(model, channels, formats)
        known = Archive({"order": order}, [before, after])
        context.cache.put(key, known)
    order, (before, after) = np.asarray(known.arrays["order"], np.int64), known.meta
    moved = int(np.count_nonzero(order != np.arange(len(order))))
    context.progress.say(
        f"order of channels: {moved} of {channels.count} moved; int8 weights without saturation lose "
        f"{10 * np.log10(max(before, 1e-30) / max(after, 1e-30)):.2f} dB less by it"
    )
    return replace(rescaling, model=reordered(model, channels, order), order=order) if moved else rescaling


def best_order(model: Model, channels: Channels, formats: Mapping[str, WeightFormat]) -> tuple[Ids, float, float]:
    """The order (`reordered`), and the error of the weights relative to them, summed over layers, without and with it.

    formats: by layer, saturation-free. Channels that are read together keep their order where another gains nothing.
    """
    layers = [model.region(name) for name in formats]
    readers = [r for region in layers for r in _readers(model, region, formats[region.name], channels)]
    unordered = np.arange(channels.count)
    order, places = unordered.copy(), model.weights
    shared = {places[key][1].tensor for key in model.shared_weights}
    stays = {i for r in channels.roles if r.constant in shared for i in r.ids.ravel().tolist()}
    for number in np.unique(channels.alike):
        members = np.flatnonzero(channels.alike == number)
        for start in range(0, len(members) if stays.isdisjoint(members.tolist()) else 0, TOGETHER):
            part = members[start : start + TOGETHER]
            order[part] = part[_matched([c for r in readers for c in r.costs(part)], len(part))]
    before, after = (_errors(m, layers, formats) for m in (model, reordered(model, channels, order)))
    groups = np.append(channels.groups, ALONE)
    read = {name: np.unique(groups[channels.reads[name].ids]) for name in formats}
    for group in np.unique(channels.groups):
        together = [name for name in formats if group in read[name]]
        if sum(after[n] for n in together) >= sum(before[n] for n in together):
            order[groups[:-1] == group] = np.flatnonzero(groups[:-1] == group)
            after |= {name: before[name] for name in together}
    return order, sum(before.values()), sum(after.values())


def _bounded_formats(model: Model, menu: Menu) -> dict[str, WeightFormat]:
    """Layer -> the widest of its formats that the bound is for."""
    found: dict[str, WeightFormat] = {}
    for region in model.layers:
        bounded = [s.weight for s in menu[region.name] if s.weight is not None and s.weight.saturation_free]
        if bounded:
            found[region.name] = max(bounded, key=lambda f: f.bits)
    return found


def _errors(model: Model, layers: list[Region], formats: Mapping[str, WeightFormat]) -> dict[str, float]:
    """By layer: squared error of its weight rounded to nearest under the bound, over the weight's own square."""
    found: dict[str, float] = {}
    for region in layers:
        w, place, weight_format = model.weight(region), region.params.weights[0], formats[region.name]
        rounded = quantize_weight(w, weight_format, bound=pair_bound(region, place, weight_format))
        lost = np.square(w - rounded.dequantize(), dtype=np.float64).sum()
        found[region.name] = float(lost / max(np.square(w, dtype=np.float64).sum(), np.finfo(np.float32).tiny))
    return found


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer, or one group of a Conv.

    ids: its input channels, [C]. codes: float32 [O, C, T], real values in units of int8 codes, T positions of a window.
    prices: float64 [O], of a squared unit. partners: intp [C, T], neighbours at the same position. limit: of the sum of
    a pair.
    """

    ids: Ids
    codes: FloatArray
    prices: DoubleArray
    partners: Indices
    limit: int

    def costs(self, members: Ids) -> Iterator[Costs]:
        """For every way in which these channels are neighbours at some window positions."""
        at = np.flatnonzero(np.isin(self.ids, members))
        if not len(at):
            return
        at = at[np.argsort(self.ids[at])]
        index = np.full(len(self.ids) + 1, ALONE)  # the last entry is that of ALONE
        index[at] = np.arange(len(at))
        patterns, taps = np.unique(index[self.partners[at]], axis=1, return_inverse=True)
        for number, pattern in enumerate(patterns.T):
            if (pattern != ALONE).any():
                rows = self.codes[:, at][:, :, taps.ravel() == number]
                prices = np.repeat(self.prices, rows.shape[2])
                yield _excess(rows.transpose(0, 2, 1).reshape(-1, len(at)), prices, self.limit), pattern


def _readers(model: Model, region: Region, weight_format: WeightFormat, channels: Channels) -> Iterator[_Reader]:
    place, w, groups = region.params.weights[0], model.weight(region), region.params.groups
    bound = pair_bound(region, place, weight_format)
    assert bound is not None
    scales = weight_format.fit(w, None).scales
    codes = np.clip(w / scales[:, None], -LARGEST_CODE, LARGEST_CODE)
    prices = np.square(scales, dtype=np.float64) / max(np.square(w, dtype=np.float64).sum(), 1e-30)
    ids = channels.reads[region.name].ids.reshape(groups, -1)
    split = codes.reshape(groups, -1, ids.shape[1], w.shape[1] // ids.shape[1])
    limit = min(bound.highest, -bound.lowest)
    for group, rows, price in zip(ids, split, prices.reshape(groups, -1), strict=True):
        yield _Reader(group, rows, price, _same_position(bound, *rows.shape[1:]), limit)


def _same_position(bound: PairBound, count: int, positions: int) -> Indices:
    """intp [count, positions]: the channel beside each one, `ALONE` where that is at another window position."""
    partners = bound.partners.reshape(count, positions)
    same = (partners != ALONE) & (partners % positions == np.arange(positions))
    return np.where(same, partners // positions, ALONE)


def _excess(rows: FloatArray, prices: DoubleArray, limit: int) -> DoubleArray:
    """float64 [n, n]: what channels cost as neighbours, the squared excess over the limit, summed over rows [R, n].

    Values of unlike signs within ±127 never exceed it, so the sum of both says enough.
    """
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for row, price in zip(rows, prices, strict=True):
        large = np.flatnonzero(2 * np.abs(row) > limit)  # one of two that exceed it is
        over = price * np.square(np.maximum(np.abs(row[large, None] + row) - limit, 0), dtype=np.float64)
        total[large] += over
        over[:, large] = 0
        total[:, large] += over.T
    np.fill_diagonal(total, 0)
    return total


def _matched(costs: list[Costs], count: int) -> Indices:
    """intp [count]: the channel for each place; pairs of channels are exchanged as long as neighbours get cheaper."""
    order = np.arange(count)
    while costs:
        there, mutual = np.zeros((count, count)), np.zeros((count, count))
        for pairs, neighbours in costs:
            paired = np.flatnonzero(neighbours != ALONE)
            beside = neighbours[paired]
            there[paired] += pairs[order[beside]][:, order]  # [place, place that its channel would come from]
            mutual[paired, beside] += 2 * pairs[order[paired], order[beside]]
        gain = np.diagonal(there)[:, None] + np.diagonal(there) - there - there.T - mutual
        best = gain.argmax(axis=1)
        most = gain[np.arange(count), best]
        least = 1e-9 * np.trace(there)
        touched = np.zeros(count + 1, bool)  # the last entry is that of ALONE
        exchanged = False
        for one in np.argsort(-most, kind="stable"):
            other = best[one]
            if most[one] <= least:
                break
            if touched[one] or touched[other]:
                continue
            order[[one, other]] = order[[other, one]]
            exchanged = True
            for place in (one, other):
                touched[[place, *(neighbours[place] for _, neighbours in costs)]] = True
            touched[ALONE] = False
        if not exchanged:
            break
    return order
