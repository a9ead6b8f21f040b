"""An order of channels that keeps int8 weights within the bound on pairs (`rounding/overflow.py`) at least cost.

Kernels add the products of two neighbouring input channels in 16 bits. Two large weights have to shrink, a large and a
small one do not, so it counts which channels are neighbours. The order of channels that a layer makes is free where all
that read them follow (`exchange.py`). All output channels of all readers have the same pairs: what is minimised is the
sum of what they lose, each layer's relative to its weight. That is a matching of least weight; it is approached by
exchanging two channels as long as that helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.files import Archive, is_number
from onnxmpq.keys import model_hash, programs
from onnxmpq.menu import Menu
from onnxmpq.model import Model, Region
from onnxmpq.rescale.channels import Channels, Ids
from onnxmpq.rescale.choose import Rescaling
from onnxmpq.rescale.exchange import find_exchangeable, may_be_ordered, reordered
from onnxmpq.rounding import ALONE, DoubleArray, FloatArray, quantize_weight
from onnxmpq.runtimes import sums_neighbours
from onnxmpq.schemes import INT8_WEIGHTS
from onnxmpq.weights import Techniques, pair_bound

BOUNDED = INT8_WEIGHTS.without_saturation
TOGETHER = 512
"""Channels that are ordered among themselves; of more, the first so many, then the next: time grows with the square."""
VALUES_AT_ONCE = 1 << 18
LARGEST_CODE, SMALLEST_NORM = np.float32(127), np.float32(1e-30)
Indices = NDArray[np.intp]
Costs = tuple[DoubleArray, Indices]
"""Float64 [n, n], by channels: what two of them cost as neighbours; [n], by places: the place beside each one."""


def in_best_order(rescaling: Rescaling, menu: Menu, techniques: Techniques, context: Context) -> Rescaling:
    """The model with channels in an order in which weights that obey the bound lose less, where there is one."""
    model = rescaling.model
    bounded = any(s.weight is not None and s.weight.saturation_free for row in menu.values() for s in row)
    if "channel-order" not in techniques or not bounded:
        return rescaling
    channels, key = find_exchangeable(model.structure), content_hash("order", programs(), model_hash(model))
    known = context.cache.get(key, lambda entry: _read(entry, channels))
    if known is None:
        with context.progress.stage("ordering channels", 0):
            known = best_order(model, channels)
        context.cache.put(key, Archive({"order": known[0]}, known[1:]))
    order, before, after = known
    if moved := int(np.count_nonzero(order != np.arange(channels.count))):
        less = f"{10 * np.log10(before / max(after, 1e-30)):.2f} dB less"
        context.progress.say(f"{moved} channels change places, weights that cannot saturate in int8 lose {less} by it")
    return replace(rescaling, model=reordered(model, channels, order), order=order) if moved else rescaling


def _read(entry: Archive, channels: Channels) -> tuple[Ids, float, float]:
    """Inverse of an entry of `best_order`. Raises ValueError or TypeError for an order of other channels."""
    order, (before, after) = np.asarray(entry.array("order", np.int64, channels.count), np.int64), entry.meta
    if not may_be_ordered(channels, order) or not (is_number(before) and is_number(after) and min(before, after) >= 0):
        raise ValueError("an order of other channels")
    return order, float(before), float(after)


def best_order(model: Model, channels: Channels) -> tuple[Ids, float, float]:
    """The order (`reordered`), and the error of the weights relative to them, summed over layers, without and with it.

    All layers whose kernels add neighbours count, whatever a plan makes of them: what is computed for a model in one
    order is worth nothing in another. Channels that are read together stay where another order gains nothing.
    """
    layers = [r for r in model.layers if r.name in channels.reads and _adds_neighbours(r)]
    places, groups, order = model.weights, channels.groups, np.arange(channels.count)
    shared = {places[key][1].tensor for key in model.shared_weights}  # stored once as long as they are equal
    stay = {i for role in channels.roles if role.constant in shared for i in role.ids.ravel().tolist()}
    together = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    read = [[r for r in layers if np.isin(channels.reads[r.name].ids, ids).any()] for ids in together]
    for members, regions in zip(together, read, strict=True):
        readers = [reader for region in regions for reader in _readers(model, region, channels)]
        for number in np.unique(channels.alike[members]):
            alike = np.flatnonzero(channels.alike == number)
            if len(alike) > 1 and stay.isdisjoint(alike.tolist()):
                order[alike] = _by_place(alike, readers)
    before, after = (_errors(m, layers) for m in (model, reordered(model, channels, order)))
    for members, regions in zip(together, read, strict=True):
        names = [region.name for region in regions]
        if sum(after[n] for n in names) >= sum(before[n] for n in names):
            order[members] = members
            after |= {name: before[name] for name in names}
    return order, sum(before.values()), sum(after.values())


def _by_place(alike: Ids, readers: Sequence[_Reader]) -> Ids:
    """These channels in a better order."""
    parts = np.split(alike, range(TOGETHER, len(alike), TOGETHER))
    costs = [[reader.costs(part) for reader in readers if part[0] in reader.ids] for part in parts]
    return np.concatenate([part[_matched(found, len(part))] for part, found in zip(parts, costs, strict=True)])


def _adds_neighbours(region: Region) -> bool:
    return sums_neighbours(region.op_type, region.params.weight_shape, region.params.groups)


def _errors(model: Model, layers: Sequence[Region]) -> dict[str, float]:
    """By layer: squared error of its weight rounded to nearest under the bound, over the weight's own square."""
    found: dict[str, float] = {}
    for region in layers:
        w, bound = model.weight(region), pair_bound(region, region.params.weights[0], BOUNDED)
        lost = w - quantize_weight(w, BOUNDED, bound=bound).dequantize()
        found[region.name] = float(np.square(lost).sum() / np.maximum(np.square(w).sum(), SMALLEST_NORM))
    return found


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer, or one group of a Conv.

    ids: its input channels, [C]. rows: float32 [R, C], its weights at each window position, over the whole weight's
    norm. limits: float32 [R], of the sum of two. partners: intp [C], positions of neighbours.
    """

    ids: Ids
    rows: FloatArray
    limits: FloatArray
    partners: Indices

    def costs(self, members: Ids) -> Costs:
        """Of these channels, which it reads once each: the squared excess over the limit, summed over rows.

        Values of unlike signs do not exceed it together, since neither does alone.
        """
        at = np.flatnonzero(np.isin(self.ids, members))
        at = at[np.argsort(self.ids[at])]
        total = _excess(self.rows[:, at], self.limits)
        place = np.full(len(self.ids) + 1, ALONE)  # the last entry is that of ALONE
        place[at] = np.arange(len(at))
        return total, place[self.partners[at]]


def _excess(rows: FloatArray, limits: FloatArray) -> DoubleArray:
    """float64 [C, C]: squared excess of two columns of float32 [R, C] over the limits [R], summed over rows."""
    count, total = rows.shape[1], np.zeros(rows.shape[1] ** 2)
    size = max(VALUES_AT_ONCE // max(count, 1), 1)
    for start in range(0, len(rows), size):
        some, limit = rows[start : start + size], limits[start : start + size, None]
        rising = np.argsort(some, axis=1)
        for values, ids in ((some, rising[:, ::-1]), (-some, rising)):
            falling, begins = np.take_along_axis(values, ids, axis=1), 4 * np.arange(len(some))[:, None]
            lead = np.flatnonzero(2 * falling > limit)  # one of two that exceed it is
            row, shares = lead // count, falling / limit  # of the limit, at most 1
            ends = np.searchsorted((begins - shares).ravel(), begins[row, 0] - (1 - shares.ravel()[lead]))
            partners = np.maximum(ends - lead - 1, 0)  # of each, those that come next
            behind = lead + 1 - (np.cumsum(partners) - partners)
            other = np.arange(partners.sum()) + np.repeat(behind, partners)
            left, place = limit[row, 0] - falling.ravel()[lead], ids.ravel()
            over = np.maximum(falling.ravel()[other] - np.repeat(left, partners), 0)
            pairs = np.repeat(count * place[lead], partners) + place[other]
            total += np.bincount(pairs, np.square(over), count**2)
    square = total.reshape(count, count)
    return np.asarray(square + square.T)


def _readers(model: Model, region: Region, channels: Channels) -> Iterator[_Reader]:
    """None for an odd number of channels at several window positions, where neighbours are not the same at all."""
    w, ids = model.weight(region), channels.reads[region.name].ids.reshape(region.params.groups, -1)
    bound = pair_bound(region, region.params.weights[0], BOUNDED)
    assert bound is not None
    partners = bound.partners.reshape(ids.shape[1], -1)
    partners = np.where(partners == ALONE, ALONE, partners // partners.shape[1])
    if (partners != partners[:, :1]).any():
        return
    steps = BOUNDED.fit(w, None).scales[:, None]
    units = steps / np.maximum(np.linalg.norm(w), SMALLEST_NORM)
    rows = (np.clip(w / steps, -LARGEST_CODE, LARGEST_CODE) * units).reshape(-1, *partners.shape)
    limits = np.repeat(min(bound.highest, -bound.lowest) * units, partners.shape[1])
    apart = rows.transpose(0, 2, 1).reshape(-1, len(partners)), limits
    for group, own, limit in zip(ids, *(np.split(v, len(ids)) for v in apart), strict=True):
        yield _Reader(group, own, limit, partners[:, 0])


def _matched(costs: Sequence[Costs], count: int) -> Indices:
    """intp [count]: the channel for each place; channels are exchanged as long as neighbours get cheaper."""
    order = np.arange(count)
    while True:
        there, mutual = np.zeros((count, count)), np.zeros((count, count))
        for pairs, neighbours in costs:
            paired = np.flatnonzero(neighbours != ALONE)
            beside = neighbours[paired]
            there[paired] += pairs[order[beside]][:, order]  # [place, place that its channel would come from]
            mutual[paired, beside] += 2 * pairs[order[paired], order[beside]]
        gain = np.diagonal(there)[:, None] + np.diagonal(there) - there - there.T - mutual
        best, least = gain.argmax(axis=1), 1e-9 * np.trace(there)
        touched = np.zeros(count + 1, bool)  # the last entry is that of ALONE
        for one in np.argsort(-gain.max(axis=1), kind="stable"):
            other = best[one]
            if gain[one, other] > least and not touched[one] and not touched[other]:
                order[[one, other]] = order[[other, one]]
                for place in (one, other):
                    touched[[place, *(neighbours[place] for _, neighbours in costs)]] = True
                touched[ALONE] = False
        if not touched.any():
            return order
