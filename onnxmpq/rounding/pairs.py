"""Rounding under the bound on pairs of weights that keeps 16-bit sums from saturating (`rounding/overflow.py`).

The bound couples two inputs of an output channel: their int8 codes of one sign may add up to so much. Rounding goes
input by input, so of each pair one comes first and one second. The first aims at its part of the point nearest to both
targets that the bound allows; the second has what the first one leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding.overflow import LARGEST_CODE, overflowing_channels, pair_limits
from onnxmpq.rounding.types import FloatArray, Grid, QuantizedWeight, chunks

IndexArray = NDArray[np.intp]
ALONE = -1
STRETCH_POWERS = (0.3, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1)
"""Channels whose codes the bound changes are also rounded with larger scales: times `PairBound.stretches` to each of
these powers."""
ZERO = np.float32(0)
_LARGEST = np.float32(127)


@dataclass(frozen=True, eq=False)
class PairBound:
    """The bound for a layer with K inputs.

    columns: intp [K], the inputs in the order of the kernel (`runtimes.kernel_columns`). largest_code: of the
    activations, as in `pair_limits`, which raises ValueError. partners: intp [K], the input whose product is added to
    this one's in 16 bits, `ALONE` where there is none. lowest, highest: sums of the codes of one sign in a pair.
    """

    columns: IndexArray
    largest_code: int
    partners: IndexArray
    lowest: int
    highest: int

    @classmethod
    def of(cls, columns: IndexArray, largest_code: int = LARGEST_CODE) -> PairBound:
        """The bound for kernels that walk the inputs in this order."""
        pairs = columns[: len(columns) // 2 * 2].reshape(-1, 2)
        partners = np.full(len(columns), ALONE, np.intp)
        partners[pairs[:, 0]], partners[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
        return cls(columns, largest_code, partners, *pair_limits(largest_code))

    @cached_property
    def pairs(self) -> tuple[IndexArray, IndexArray]:
        """intp [P] each: the inputs of each pair, the first of them in order."""
        first = np.flatnonzero(self.partners > np.arange(len(self.partners)))
        return first, self.partners[first]

    def left_by(self, other: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest int8 code beside a partner's, float32 of the same shape."""
        low: FloatArray = np.float32(self.lowest) - np.minimum(other, ZERO)
        high: FloatArray = np.float32(self.highest) - np.maximum(other, ZERO)
        return low, high

    def excess(self, one: FloatArray, other: FloatArray) -> FloatArray:
        """By how much two real values, in units of int8 codes, exceed the bound: positive above, negative below."""
        total = one + other
        beyond: FloatArray = np.maximum(total - self.highest, 0) + np.minimum(total - self.lowest, 0)
        return np.where(one * other > 0, beyond, ZERO)

    def obeyed(self, codes: NDArray[np.generic]) -> NDArray[np.bool_]:
        """bool [O]: channels of int8 codes [O, K] without a pair beyond the bound."""
        return ~overflowing_channels(codes[:, self.columns], self.largest_code)

    def stretches(self, w: FloatArray, grid: Grid) -> FloatArray:
        """float32 [O], from 1 on: about the factor on each channel's scale with which w [O, K] obeys the bound."""
        ours, theirs = (w[:, inputs] for inputs in self.pairs)
        sums = np.where(ours * theirs > 0, np.abs(ours + theirs), np.float32(0)).max(axis=1, initial=0)
        enough: FloatArray = sums / (grid.scales * np.float32(min(self.highest, -self.lowest)))
        return np.maximum(enough, np.float32(1))


def multipliers_per_input(grid: Grid, inputs: int) -> FloatArray:
    """float32 [O, K], or [O, 1] where all are 1: int8 codes per code of the format."""
    if grid.multipliers is None:
        return np.ones((len(grid.scales), 1), np.float32)
    return np.repeat(grid.multipliers, grid.block, axis=1)[:, :inputs].astype(np.float32)


def nearest_within(grid: Grid, w: FloatArray, bound: PairBound, importance: FloatArray | None) -> QuantizedWeight:
    """w [O, K] rounded to a point of the grid that obeys the bound, and to the nearest where it can be.

    importance: float32 [O, K] or None, weight of each squared error.
    """
    codes = np.empty(w.shape, np.int8)
    for rows in chunks(*w.shape):
        part, some = grid.of(rows), w[rows]
        prices = None if importance is None else importance[rows]
        codes[rows] = codes_within(part, some, bound, prices, pairs_near(part, some, bound))
    return grid.with_codes(codes)


def pairs_near(grid: Grid, w: FloatArray, bound: PairBound) -> tuple[IndexArray, IndexArray]:
    """Channel and number of each pair that the bound may change on this grid, or on one with larger scales; of all
    others the codes nearest to w [O, K] obey it."""
    first, second = bound.pairs
    ours, theirs = np.take(w, first, axis=1), np.take(w, second, axis=1)
    multipliers = np.broadcast_to(multipliers_per_input(grid, w.shape[1]), w.shape)
    # a code is at most half a step away from its target; float32 loses less than 0.01
    steps = (np.take(multipliers, first, axis=1) + np.take(multipliers, second, axis=1)) / np.float32(2)
    limits = np.float32(min(bound.highest, -bound.lowest) - 0.01) - steps
    scales = grid.scales[:, None]
    row, pair = np.nonzero((np.abs(ours + theirs) > limits * scales) | (np.abs(ours) > _LARGEST * scales))
    return row, pair


def codes_within(
    grid: Grid, w: FloatArray, bound: PairBound, importance: FloatArray | None, near: tuple[IndexArray, IndexArray]
) -> NDArray[np.int8]:
    """As `nearest_within`, int8 [O, K]. near: from `pairs_near`, so that few pairs are looked at one by one."""
    targets = w / grid.scales[:, None]  # in units of int8 codes
    multipliers = multipliers_per_input(grid, w.shape[1])
    low, high = np.float32(grid.format.low), np.float32(grid.format.high)
    codes = np.rint(targets if grid.multipliers is None else targets / multipliers)
    np.clip(codes, low, high, out=codes)
    row, pair = near
    at, beside = (row, bound.pairs[0][pair]), (row, bound.pairs[1][pair])
    ours, theirs = (np.broadcast_to(multipliers, w.shape)[place] for place in (at, beside))
    one, other = (np.clip(targets[place], -_LARGEST, _LARGEST) for place in (at, beside))
    part = np.float32(0.5) if importance is None else share(importance[at], importance[beside])
    codes[at] = np.clip(np.rint((one - bound.excess(one, other) * part) / ours), low, high)
    codes[beside] = np.clip(codes[beside], *code_limits(grid, bound.left_by(codes[at] * ours), theirs))
    return np.asarray(codes, np.int8)


def share(own: FloatArray, partners: FloatArray) -> FloatArray:
    """The part of a pair's excess that an input takes off, by the prices of errors: its partner's over both."""
    total = own + partners
    return np.where(total > 0, partners / np.where(total > 0, total, 1), np.float32(0.5))


def code_limits(
    grid: Grid, limits: tuple[FloatArray, FloatArray], multipliers: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Limits of int8 codes as limits of the format's codes, within its own."""
    low = np.maximum(np.ceil(limits[0] / multipliers), np.float32(grid.format.low))
    high = np.minimum(np.floor(limits[1] / multipliers), np.float32(grid.format.high))
    return low, high


class VisitedPairs:
    """The bound while inputs are rounded one after the other, for all output channels of a group at once.

    In visiting order: targets float32 [K, O], prices float32 [K] of errors; order: intp [K], inputs as visited.
    """

    def __init__(self, bound: PairBound, order: IndexArray, targets: FloatArray, prices: FloatArray, grid: Grid):
        position = np.empty(len(order), np.intp)
        position[order] = np.arange(len(order))
        partners = bound.partners[order]
        self.partners = np.where(partners == ALONE, ALONE, position[partners])
        self.bound, self.grid, self.targets, self.prices = bound, grid, targets, prices
        self.products = np.zeros_like(targets)

    def aim(self, i: int, wanted: FloatArray) -> FloatArray:
        """Value [O] to which input i is rounded for a target [O], with regard to a partner that is visited later."""
        j = self.partners[i]
        if j < i:  # or alone
            return wanted
        scales = self.grid.scales
        one, other = (np.clip(v / scales, -_LARGEST, _LARGEST) for v in (wanted, self.targets[j]))
        excess = self.bound.excess(one, other)
        if not excess.any():
            return wanted
        lowered = (one - excess * share(self.prices[i], self.prices[j])) * scales
        return np.where(excess == 0, wanted, lowered)

    def rounded(self, i: int, wanted: FloatArray, steps: FloatArray) -> FloatArray:
        """Codes float32 [O] of input i for the targets `wanted` [O] and steps [O]; remembered for its partner."""
        multipliers = np.rint(steps / self.grid.scales)
        aimed = np.rint(self.aim(i, wanted) / steps)
        low, high = np.float32(self.grid.format.low), np.float32(self.grid.format.high)
        j = self.partners[i]
        if j == ALONE or j > i:
            codes: FloatArray = np.clip(aimed, low, high)
        else:
            codes = np.clip(aimed, *code_limits(self.grid, self.bound.left_by(self.products[j]), multipliers))
        self.products[i] = codes * multipliers
        return codes
