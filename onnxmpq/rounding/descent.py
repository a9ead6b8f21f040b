"""Coordinate descent on the codes: change one input's code at a time while that lowers the layer's output error.

For fixed steps the error (w - q) H (w - q)ᵀ is, in one code of input k, a parabola with its minimum at
q_k + [(w - q) H]_k / (H_kk step_k): the nearest allowed code is the exact best one given all others. (QuantEase,
arXiv 2309.01885, does the same.) All output channels move at once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmpq.rounding.gptq import quantize_gptq
from onnxmpq.rounding.pairs import ALONE, PairBound, code_limits, multipliers_per_input
from onnxmpq.rounding.refit import refit_scales
from onnxmpq.rounding.second_order import best_per_channel, by_rows
from onnxmpq.rounding.types import FloatArray, Grid, QuantizedWeight, WeightFormat

Limits = Callable[[int], tuple[FloatArray, FloatArray] | tuple[np.float32, np.float32]]
"""Number of an input -> lowest and highest code that it may have."""

MAX_SWEEPS = 10

PANEL = 64
"""Inputs whose changes are collected before they reach the gradient of all others in one matrix product."""


def quantize_descent(
    w: FloatArray, weight_format: WeightFormat, hessian: FloatArray | None, bound: PairBound | None = None
) -> QuantizedWeight:
    """GPTQ, then least-squares scales, coordinate descent on the codes, and least-squares scales again.

    GPTQ alone for fp8, whose values are no linear function of codes and scales.
    """
    start = quantize_gptq(w, weight_format, hessian, bound)
    assert hessian is not None  # or GPTQ would have refused
    if not weight_format.linear:
        return start

    def some(rows: slice) -> QuantizedWeight:
        fitted = refit_scales(w[rows], start.of(rows), hessian)
        return refit_scales(w[rows], descend(w[rows], fitted, hessian, bound=bound), hessian)

    return some(slice(None)) if len(hessian) > 1 else by_rows(w, some)


def descend(
    w: FloatArray,
    quantized: QuantizedWeight,
    hessian: FloatArray,
    max_sweeps: int = MAX_SWEEPS,
    bound: PairBound | None = None,
) -> QuantizedWeight:
    """Better codes on the same grid; the error of no channel grows.

    w float32 [O, K]; hessian float32 [G, K, K], positive diagonal. Ends when a whole sweep changes nothing.
    bound: that the codes obey, and go on to obey.
    """
    steps = _inputs_first(quantized.grid.steps_per_input(w.shape[1]), len(hessian))
    codes = _inputs_first(quantized.codes.astype(np.float32), len(hessian))
    gradient = hessian @ (_inputs_first(w, len(hessian)) - codes * steps)
    limits = _limits(quantized.grid, codes, bound)
    for _ in range(max_sweeps):
        if not _sweep(codes, gradient, steps, hessian, limits):
            break
    moved = codes.transpose(0, 2, 1).reshape(w.shape).astype(np.int8)
    return best_per_channel(w, hessian, [quantized, quantized.grid.with_codes(moved)])


def _limits(grid: Grid, codes: FloatArray, bound: PairBound | None) -> Limits:
    """The limits of an input's codes, given all others. codes: float32 [G, K, O/G], as they are when it is asked."""
    inputs = codes.shape[1]
    if grid.zero_points is not None:
        shifts = np.repeat(grid.zero_points, grid.block, axis=1)[:, :inputs].astype(np.float32)
        zeros, high = _inputs_first(shifts, len(codes)), np.float32(grid.format.high)
        return lambda k: (-zeros[:, k], high - zeros[:, k])
    own = np.float32(grid.format.low), np.float32(grid.format.high)
    if bound is None:
        return lambda _: own
    multipliers = np.broadcast_to(multipliers_per_input(grid, inputs), (len(grid.scales), inputs))
    factors = _inputs_first(multipliers, len(codes))

    def limits(k: int) -> tuple[FloatArray, FloatArray] | tuple[np.float32, np.float32]:
        partner = bound.partners[k]
        if partner == ALONE:
            return own
        return code_limits(grid, bound.left_by(codes[:, partner] * factors[:, partner]), factors[:, k])

    return limits


def _sweep(codes: FloatArray, gradient: FloatArray, steps: FloatArray, hessian: FloatArray, limits: Limits) -> bool:
    """One pass over all inputs; True if any code changed. codes, gradient [G, K, O/G] change in place."""
    any_change = False
    for start in range(0, codes.shape[1], PANEL):
        panel = slice(start, start + PANEL)
        moves = np.zeros_like(codes[:, panel])
        for i in range(moves.shape[1]):
            k = start + i
            slope = gradient[:, k] - (hessian[:, k, None, start:k] @ moves[:, :i])[:, 0]
            best = codes[:, k] + slope / (steps[:, k] * hessian[:, k, k, None])
            np.clip(np.rint(best, out=best), *limits(k), out=best)
            moves[:, i] = (best - codes[:, k]) * steps[:, k]
            codes[:, k] = best
        if moves.any():
            any_change = True
            gradient -= hessian[:, :, panel] @ moves
    return any_change


def _inputs_first(values: FloatArray, groups: int) -> FloatArray:
    """[O, K] as contiguous [G, K, O/G]."""
    return np.ascontiguousarray(values.reshape(groups, -1, values.shape[1]).transpose(0, 2, 1))
