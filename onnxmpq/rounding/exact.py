"""The best codes there are for depthwise kernels: sphere decoding, breadth first, all channels at once.

With H = N diag(p) Nᵀ (`coupling`) the error of a channel is a sum of squares, one per input, each depending only on the
inputs before it; so a partial choice of codes that already costs as much as the best known kernel can be dropped with
all its continuations (Fincke and Pohst 1985; Agrell et al. 2002 for the ordering).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding.descent import quantize_descent
from onnxmpq.rounding.pairs import ALONE, PairBound, code_limits, multipliers_per_input, nearest_within
from onnxmpq.rounding.refit import refit_scales
from onnxmpq.rounding.second_order import best_per_channel, output_error
from onnxmpq.rounding.types import CodeArray, DoubleArray, FloatArray, Grid, QuantizedWeight, WeightFormat

IndexArray = NDArray[np.intp]

EXACT_INPUTS = 9
"""The longest rows (a 3x3 depthwise kernel) for which the search is offered."""

STEP_FACTORS = np.linspace(0.5, 1.4, 31, dtype=np.float32)
"""Trial steps, relative to those that GPTQ and descent ended with; the search is exact for each of them."""

MAX_NODES = 1 << 17
"""Partial kernels held at once for one channel. Beyond that only the cheapest go on, and exactness is lost."""

CHANNELS_PER_SEARCH = 16


def quantize_exact(
    w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None, bound: PairBound | None = None
) -> QuantizedWeight:
    """w float32 [O, K] with K <= `EXACT_INPUTS`; hessian float32 [G, K, K], positive definite."""
    if w.shape[1] > EXACT_INPUTS:
        raise ValueError(f"the exact search is for rows of up to {EXACT_INPUTS} weights, not {w.shape[1]}")
    best = start = quantize_descent(w, weight_format, hessian, bound)
    if not weight_format.linear or weight_format.shifted:
        return best
    assert hessian is not None  # or the methods above would have refused
    for factor in STEP_FACTORS:
        scales = start.scales * factor
        trial = closest_codes(w, Grid(start.format, scales, start.multipliers, start.block), hessian, best, bound)
        best = best_per_channel(w, hessian, [best, refit_scales(w, trial, hessian)])
    return best


def closest_codes(
    w: FloatArray, grid: Grid, hessian: FloatArray, incumbent: QuantizedWeight, bound: PairBound | None = None
) -> QuantizedWeight:
    """The codes on `grid` with the least output error, for each channel in which they beat `incumbent`.

    The other channels are rounded to nearest on the grid. Both obey the bound, if there is one.
    """
    order, factors, pivots = _ordered_coupling(hessian)
    group = np.repeat(np.arange(len(hessian)), len(w) // len(hessian))
    beat = output_error(w, incumbent.dequantize(), hessian) * (1 - 1e-6)
    codes = (grid.nearest(w) if bound is None else nearest_within(grid, w, bound, None)).codes.copy()
    steps = grid.steps_per_input(w.shape[1]).astype(np.float64)
    for start in range(0, len(w), CHANNELS_PER_SEARCH):
        channels = np.arange(start, min(start + CHANNELS_PER_SEARCH, len(w)))
        inputs = order[group[channels]]
        search = _Search(
            np.take_along_axis(w[channels].astype(np.float64), inputs, axis=1),
            np.take_along_axis(steps[channels], inputs, axis=1),
            factors[group[channels]],
            pivots[group[channels]],
            beat[channels],
            grid,
            None if bound is None else _pairs(bound, grid, inputs, channels),
        )
        winners, best = search.run()
        codes[channels[winners, None], inputs[winners]] = best
    return grid.with_codes(codes)


@dataclass(frozen=True)
class _Nodes:
    """Partial kernels after some inputs: channel [n], codes and errors [n, inputs done], cost [n]."""

    channel: IndexArray
    codes: CodeArray
    errors: DoubleArray
    cost: DoubleArray


@dataclass(frozen=True)
class _Pairs:
    """The bound on pairs for a few channels, their inputs in visiting order.

    partners: intp [C, K], where the partner is visited, `ALONE` without one. multipliers: float32 [C, K].
    """

    bound: PairBound
    grid: Grid
    partners: IndexArray
    multipliers: FloatArray

    def limits(self, nodes: _Nodes, k: int) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest code of input k for each partial kernel, float32 [n] each."""
        at, partner = nodes.channel, self.partners[nodes.channel, k]
        done = (partner != ALONE) & (partner < k)
        place = np.where(done, partner, 0)
        chosen = nodes.codes[np.arange(len(at)), place] if k else np.zeros(len(at))
        other = np.where(done, chosen * self.multipliers[at, place], 0).astype(np.float32)
        return code_limits(self.grid, self.bound.left_by(other), self.multipliers[at, k])


def _pairs(bound: PairBound, grid: Grid, inputs: IndexArray, channels: IndexArray) -> _Pairs:
    """inputs: intp [C, K], in visiting order, of these channels."""
    position = np.argsort(inputs, axis=1)
    partners = bound.partners[inputs]
    places = np.take_along_axis(position, np.maximum(partners, 0), axis=1)
    shape = (len(grid.scales), inputs.shape[1])
    multipliers = np.broadcast_to(multipliers_per_input(grid, shape[1]), shape)[channels]
    visited = np.take_along_axis(multipliers, inputs, axis=1)
    return _Pairs(bound, grid, np.where(partners == ALONE, ALONE, places), visited)


@dataclass(frozen=True)
class _Search:
    """A few channels, their inputs in visiting order.

    w, steps, pivots: [C, K]; factors: [C, K, K]; bound: [C], the error to beat; grid: of the codes; pairs: bound on
    pairs of them, if there is one.
    """

    w: DoubleArray
    steps: DoubleArray
    factors: DoubleArray
    pivots: DoubleArray
    bound: DoubleArray
    grid: Grid
    pairs: _Pairs | None

    def run(self) -> tuple[IndexArray, CodeArray]:
        """(channels with a kernel better than their bound, its codes in visiting order)."""
        count, inputs = self.w.shape
        empty = np.empty((count, 0))
        nodes = _Nodes(np.arange(count), empty.astype(np.int8), empty, np.zeros(count))
        for k in range(inputs):
            nodes = self._trimmed(self._expanded(nodes, k))
        cheapest_first = np.lexsort((nodes.cost, nodes.channel))
        winners, first = np.unique(nodes.channel[cheapest_first], return_index=True)
        return winners, nodes.codes[cheapest_first[first]]

    def _expanded(self, nodes: _Nodes, k: int) -> _Nodes:
        """Every node with every code of input k that stays below the bound of its channel."""
        at = nodes.channel
        carried = np.einsum("ni,ni->n", nodes.errors, self.factors[at, :k, k])
        reach = np.sqrt(np.maximum(self.bound[at] - nodes.cost, 0) / self.pivots[at, k])
        centre = (self.w[at, k] + carried) / self.steps[at, k]
        radius = reach / np.abs(self.steps[at, k])
        low: FloatArray | int = self.grid.format.low
        high: FloatArray | int = self.grid.format.high
        if self.pairs is not None:
            low, high = self.pairs.limits(nodes, k)
        lowest = np.maximum(np.ceil(centre - radius), low)
        counts = np.maximum(np.minimum(np.floor(centre + radius), high) - lowest + 1, 0).astype(np.intp)
        parent = np.repeat(np.arange(len(at)), counts)
        within = np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)
        codes = lowest[parent] + within
        channel = at[parent]
        errors = self.w[channel, k] - codes * self.steps[channel, k]
        return _Nodes(
            channel,
            np.column_stack([nodes.codes[parent], codes.astype(np.int8)]),
            np.column_stack([nodes.errors[parent], errors]),
            nodes.cost[parent] + self.pivots[channel, k] * np.square(errors + carried[parent]),
        )

    def _trimmed(self, nodes: _Nodes) -> _Nodes:
        """At most `MAX_NODES` of each channel, the cheapest."""
        if len(nodes.cost) <= MAX_NODES:
            return nodes
        cheapest_first = np.lexsort((nodes.cost, nodes.channel))
        channel = nodes.channel[cheapest_first]
        rank = np.arange(len(channel)) - np.searchsorted(channel, channel)
        keep = cheapest_first[rank < MAX_NODES]
        return _Nodes(nodes.channel[keep], nodes.codes[keep], nodes.errors[keep], nodes.cost[keep])


def _ordered_coupling(hessian: FloatArray) -> tuple[IndexArray, DoubleArray, DoubleArray]:
    """Visiting order [G, K], and factors [G, K, K] and pivots [G, K] of H in that order.

    The last input visited is the one with the least H_kk, the one before it the least given the last, and so on: that
    evens out the pivots and makes the first ones, which prune, large.
    """
    groups, inputs = hessian.shape[:2]
    remaining = hessian.astype(np.float64)
    order = np.empty((groups, inputs), dtype=np.intp)
    row = np.arange(groups)
    visited = np.zeros((groups, inputs), dtype=bool)
    for position in range(inputs - 1, -1, -1):
        diagonal = np.where(visited, np.inf, np.einsum("gkk->gk", remaining))
        chosen = diagonal.argmin(axis=1)
        order[:, position], visited[row, chosen] = chosen, True
        column = remaining[row, :, chosen]
        remaining -= column[:, :, None] * column[:, None, :] / column[row, chosen][:, None, None]
    permuted = hessian.astype(np.float64)[row[:, None, None], order[:, :, None], order[:, None, :]]
    upper = np.linalg.cholesky(permuted[:, ::-1, ::-1])[:, ::-1, ::-1]
    root = np.einsum("gkk->gk", upper)
    return order, upper / root[:, None, :], np.square(root)
