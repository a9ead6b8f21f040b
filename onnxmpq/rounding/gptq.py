"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): round input by input, later inputs make up for earlier errors.

Written with the triangular factor of H itself (`coupling`) where the paper propagates updates with a factor of H⁻¹:
the two are the same algorithm (Babai's nearest plane; arXiv 2507.18553), but here nothing has to be inverted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding.pairs import STRETCH_POWERS, PairBound, VisitedPairs
from onnxmpq.rounding.second_order import best_per_channel, by_rows, coupling, per_group
from onnxmpq.rounding.types import FloatArray, Grid, QuantizedWeight, WeightFormat

STEP_FACTORS = (1.0, 0.87, 0.94, 1.07)
"""GPTQ runs once with the fitted steps times each of these; every channel keeps its best run."""

SIDE_BY_SIDE = 1 << 18
"""Values [K, O] of all runs that go side by side, at the most: which do follows from the weight, not the machine."""

PANEL = 128
"""Inputs whose errors are collected before they are applied to the rest in one matrix product."""


def quantize_gptq(
    w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None, bound: PairBound | None = None
) -> QuantizedWeight:
    """w float32 [O, K]; hessian float32 [G, K, K], positive definite; bound: on pairs of int8 codes, or none."""
    if hessian is None:
        raise ValueError("GPTQ needs the input statistics of the layer")
    tensor_scale = weight_format.tensor_scale(w)
    return per_group(w, hessian, lambda rows, h: _round_group(rows, weight_format, h, tensor_scale, bound))


def input_order(diagonal: FloatArray, block: int) -> list[NDArray[np.intp]]:
    """The inputs of each block, in the order in which GPTQ visits them.

    The group-aware order of DPQ (arXiv 2505.14638): blocks by descending sum of diag(H), inputs of a block by
    descending diag(H). A block stays together, so that the runtime needs no index; for per-channel formats it is the
    plain descending order ("act order").
    """
    blocks = [np.arange(start, min(start + block, len(diagonal))) for start in range(0, len(diagonal), block)]
    blocks = [inputs[np.argsort(-diagonal[inputs], kind="stable")] for inputs in blocks]
    sums = [-diagonal[inputs].sum() for inputs in blocks]
    return [blocks[i] for i in np.argsort(sums, kind="stable")]


@dataclass(frozen=True)
class _Group:
    """Inputs of all runs over some output channels of a group; K in visiting order. transposed: float32 [K, O]."""

    transposed: FloatArray
    blocks: list[NDArray[np.intp]]
    factors: FloatArray
    importance: FloatArray
    start: Grid
    bound: PairBound | None = None

    @property
    def order(self) -> NDArray[np.intp]:
        """intp [K]: the inputs as they are visited."""
        return np.concatenate(self.blocks)

    def of(self, channels: NDArray[np.intp]) -> _Group:
        """The same for some of the output channels, each as often as it is named."""
        return replace(self, transposed=np.take(self.transposed, channels, axis=1), start=self.start.of(channels))


def _round_group(
    w: FloatArray, weight_format: WeightFormat, hessian: FloatArray, tensor_scale: float, bound: PairBound | None
) -> QuantizedWeight:
    """One group: w float32 [O, K], hessian float32 [K, K]."""
    diagonal = np.ascontiguousarray(np.diagonal(hessian))
    blocks = input_order(diagonal, weight_format.block_width(w.shape[1]))
    order = np.concatenate(blocks)
    factors, pivots = coupling(hessian[np.ix_(order, order)])
    importance = np.sqrt(diagonal[order] * pivots)
    in_place = np.empty_like(importance)
    in_place[order] = importance

    def some(rows: slice) -> QuantizedWeight:
        start = weight_format.fit(w[rows], in_place, tensor_scale)
        transposed = np.ascontiguousarray(w[rows].T[order])
        return _round_rows(w[rows], hessian, _Group(transposed, blocks, factors, importance, start, bound))

    return by_rows(w, some)


def _round_rows(w: FloatArray, hessian: FloatArray, group: _Group) -> QuantizedWeight:
    """Output channels w float32 [O, K] of the group, each from its best run."""
    start, bound = group.start, group.bound
    factors = np.repeat(np.array(STEP_FACTORS, np.float32)[:, None], len(w), axis=1)
    best = best_per_channel(w, hessian[None], _runs(group, factors, np.ones_like(factors)))
    if bound is None:
        return best
    limited = np.flatnonzero(~bound.obeyed(start.nearest(w).int8_codes()))
    if not len(limited):
        return best
    part, enough = group.of(limited), bound.stretches(w[limited], start.of(limited))
    stretches = np.power(enough, np.array(STRETCH_POWERS, np.float32)[:, None])
    stretched = _runs(part, np.ones_like(stretches), stretches)
    return best.with_channels(limited, best_per_channel(w[limited], hessian[None], [best.of(limited), *stretched]))


def _runs(group: _Group, factors: FloatArray, stretches: FloatArray) -> list[QuantizedWeight]:
    """R passes over the channels [O] of the group, by factors [R, O] on the steps and stretches [R, O] of the scales.

    Small ones go side by side, as output channels of one pass: rounding an input takes as long for a few channels as
    for hundreds.
    """
    inputs, channels = group.transposed.shape
    size = max(SIDE_BY_SIDE // max(inputs * channels, 1), 1)
    runs: list[QuantizedWeight] = []
    for first in range(0, len(factors), size):
        some = slice(first, first + size)
        count = len(factors[some])
        together = _run(group.of(np.tile(np.arange(channels), count)), factors[some].ravel(), stretches[some].ravel())
        runs += (together.of(slice(i * channels, (i + 1) * channels)) for i in range(count))
    return runs


def _run(group: _Group, factors: FloatArray, stretches: FloatArray) -> QuantizedWeight:
    """One pass over all blocks with the steps of channels scaled by factors [O], and their scales by stretches [O].

    `group.start` is written to where blocks get their multipliers and zero points as they are reached.
    """
    start = group.start
    scaled = factors * stretches if start.format.one_step else stretches
    grid = replace(start, scales=start.scales * (scaled[:, None] if start.scales.ndim == 2 else scaled))
    pairs = None
    if group.bound is not None:
        pairs = VisitedPairs(group.bound, group.order, group.transposed, group.importance, grid)
    errors = np.zeros_like(group.transposed)
    codes = np.empty(group.transposed.shape[::-1], dtype=np.int8)
    begin = 0
    for inputs in group.blocks:
        here = slice(begin, begin + len(inputs))
        carried = group.factors[:begin, here].T @ errors[:begin]
        w, block = group.transposed[here], int(inputs[0]) // grid.block
        step = grid.format.open_block(grid, block, w + carried, group.importance[here], factors)
        limits = grid.limits(block)
        rounded = _round_block(w, carried, group.factors[here, here], step, grid, limits, pairs, begin)
        errors[here] = w - grid.value(rounded, step)
        codes[:, inputs] = grid.encoded(rounded.T)
        begin = here.stop
    return grid.with_codes(codes)


def _round_block(
    w: FloatArray,
    carried: FloatArray,
    factors: FloatArray,
    step: FloatArray,
    grid: Grid,
    limits: tuple[FloatArray, FloatArray] | tuple[np.float32, np.float32],
    pairs: VisitedPairs | None = None,
    begin: int = 0,
) -> FloatArray:
    """float32 [B, O]: one block, rounded, in units of its step.

    w [B, O]; carried [B, O]: what the inputs before the block ask of it; factors [B, B]; step [O]; limits:
    of the codes; begin: how many inputs were visited before.
    """
    codes = np.empty_like(w)
    errors = np.empty_like(w)
    inverse = 1 / step
    for start in range(0, len(w), PANEL):
        stop = min(start + PANEL, len(w))
        target = w[start:stop] + carried[start:stop] + factors[:start, start:stop].T @ errors[:start]
        for i in range(start, stop):
            wanted = target[i - start] + factors[start:i, i] @ errors[start:i]
            if pairs is not None:
                codes[i] = pairs.rounded(begin + i, wanted, step)
                errors[i] = w[i] - codes[i] * step
            elif grid.format.linear:
                np.clip(np.rint(wanted * inverse), *limits, out=codes[i])
                errors[i] = w[i] - codes[i] * step
            else:
                codes[i] = grid.rounded(wanted, step)
                errors[i] = w[i] - grid.value(codes[i], step)
    return codes
