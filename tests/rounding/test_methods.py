"""GPTQ, descent and the exact search: what they promise about the layer's output error."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.rounding import METHODS, Dual, Grid, PerBlock, PerChannel, WeightFormat, quantize_weight
from onnxmpq.rounding.descent import descend
from onnxmpq.rounding.exact import closest_codes
from onnxmpq.rounding.gptq import _round_block, input_order
from onnxmpq.rounding.refit import refit_scales
from onnxmpq.rounding.second_order import coupling, damped, output_error

from .strategies import FORMATS, correlated_hessian, formats, gaussian

SECOND_ORDER_METHODS = ("gptq", "descent", "best")
sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)


def total_error(w: np.ndarray, weight_format: WeightFormat, method: str, hessian: np.ndarray) -> float:
    q = quantize_weight(w, weight_format, method=method, hessian=hessian)
    return float(output_error(w, q.dequantize(), damped(hessian.reshape(-1, *hessian.shape[-2:]))).sum())


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, formats, st.sampled_from(sorted(METHODS)), seeds)
def test_every_method_stays_on_the_format(
    channels: int, inputs: int, weight_format: WeightFormat, method: str, seed: int
) -> None:
    inputs = min(inputs, 9) if method == "exact" else inputs
    w, hessian = gaussian(channels, inputs, seed), correlated_hessian(inputs, seed)
    q = quantize_weight(w, weight_format, method=method, hessian=hessian)
    again = quantize_weight(w, weight_format, method=method, hessian=hessian)
    np.testing.assert_array_equal(q.dequantize(), again.dequantize())
    assert q.codes.shape == w.shape and q.codes.dtype == np.int8
    assert q.codes.min() >= weight_format.low and q.codes.max() <= weight_format.high
    assert weight_format.negative_scales or (q.scales > 0).all()
    assert q.multipliers is None or (q.multipliers.min() >= 1 and q.multipliers.max() <= 15)


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda f: f"{f.name}{'' if f.negative_scales else '+'}")
def test_each_method_improves_on_the_one_before(weight_format: WeightFormat) -> None:
    errors = np.zeros(3)
    for seed in range(4):
        w, hessian = gaussian(24, 80, seed), correlated_hessian(80, seed)
        errors += [total_error(w, weight_format, method, hessian) for method in ("nearest", "gptq", "descent")]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < errors[1]


@pytest.mark.parametrize("method", ["gptq", "descent"])
def test_groups_are_rounded_as_if_alone(method: str) -> None:
    w, weight_format = gaussian(12, 18), PerChannel(4)
    hessian = np.stack([correlated_hessian(18, seed) for seed in range(3)])
    whole = quantize_weight(w, weight_format, method=method, hessian=hessian).dequantize()
    for group in range(3):
        rows = slice(4 * group, 4 * group + 4)
        alone = quantize_weight(w[rows], weight_format, method=method, hessian=hessian[group]).dequantize()
        np.testing.assert_allclose(whole[rows], alone, rtol=1e-5)


@pytest.mark.parametrize("method", ["gptq", "descent", "exact"])
def test_without_statistics_the_second_order_methods_refuse(method: str) -> None:
    with pytest.raises(ValueError, match="input statistics"):
        quantize_weight(gaussian(4, 8), PerChannel(4), method=method)


def test_without_statistics_the_best_there_is_is_nearest() -> None:
    w, weight_format = gaussian(4, 64), Dual(4, 16)
    best = quantize_weight(w, weight_format, method="best").dequantize()
    np.testing.assert_array_equal(best, quantize_weight(w, weight_format).dequantize())


def textbook_gptq(w: np.ndarray, steps: np.ndarray, hessian: np.ndarray, low: int, high: int) -> np.ndarray:
    """Algorithm 1 of the GPTQ paper, with its factor of H⁻¹, one column at a time, in float64."""
    w = w.astype(np.float64).copy()
    codes = np.zeros_like(w)
    upper = np.linalg.cholesky(np.linalg.inv(hessian.astype(np.float64))).T
    for j in range(w.shape[1]):
        codes[:, j] = np.clip(np.round(w[:, j] / steps), low, high)
        error = (w[:, j] - codes[:, j] * steps) / upper[j, j]
        w[:, j:] -= error[:, None] * upper[j, j:]
    return codes


@pytest.mark.parametrize("inputs", [7, 300])
def test_the_factor_of_the_hessian_gives_what_the_paper_gives(inputs: int) -> None:
    w, hessian = gaussian(8, inputs), damped(correlated_hessian(inputs)[None])[0]
    steps = np.full(8, 0.4, np.float32)
    factors, _pivots = coupling(hessian)
    grid = Grid(PerChannel(4), steps, None, inputs)
    ours = _round_block(np.ascontiguousarray(w.T), np.zeros_like(w.T), factors, steps, grid, grid.limits(0)).T
    agreement = np.mean(ours == textbook_gptq(w, steps, hessian, -8, 7))
    assert agreement > 0.995  # a tie that falls the other way in float32 is carried on along its row


def test_input_order_keeps_blocks_together_and_goes_down() -> None:
    diagonal = np.array([1, 5, 2, 9, 9, 1, 3], np.float32)
    order = [inputs.tolist() for inputs in input_order(diagonal, 3)]
    assert order == [[3, 4, 5], [1, 2, 0], [6]]


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, formats, seeds)
def test_descent_and_refit_never_raise_the_error(
    channels: int, inputs: int, weight_format: WeightFormat, seed: int
) -> None:
    w, hessian = gaussian(channels, inputs, seed), damped(correlated_hessian(inputs, seed)[None])
    start = quantize_weight(w, weight_format)
    for improve in (descend, refit_scales):
        better = improve(w, start, hessian)
        before, after = (output_error(w, q.dequantize(), hessian) for q in (start, better))
        assert (after <= before).all()


def test_descent_ends_where_no_single_code_helps() -> None:
    w, hessian = gaussian(4, 12), damped(correlated_hessian(12)[None])
    q = descend(w, quantize_weight(w, PerChannel(4)), hessian, max_sweeps=100)
    least = output_error(w, q.dequantize(), hessian)
    for k, change in itertools.product(range(12), (-1, 1)):
        codes = q.codes.copy()
        codes[:, k] = np.clip(codes[:, k] + change, q.format.low, q.format.high)
        neighbour = output_error(w, q.grid.with_codes(codes).dequantize(), hessian)
        assert (neighbour >= least * (1 - 1e-5)).all()


@pytest.mark.parametrize("weight_format", [PerChannel(4), PerBlock(4, 16)], ids=str)
def test_refit_finds_the_least_squares_scales(weight_format: WeightFormat) -> None:
    """Independent: regression of the layer's outputs on the outputs of each block's codes."""
    w = gaussian(3, 40)
    x = np.random.default_rng(1).standard_normal((300, 40)).astype(np.float32)
    start = quantize_weight(w, weight_format)
    refitted = refit_scales(w, start, (x.T @ x / 300)[None])
    for channel in range(3):
        parts = [
            x[:, s : s + start.block] @ start.codes[channel, s : s + start.block] for s in range(0, 40, start.block)
        ]
        expected = np.linalg.lstsq(np.stack(parts, 1), x @ w[channel], rcond=None)[0]
        np.testing.assert_allclose(np.atleast_1d(refitted.scales[channel]), expected, rtol=1e-3)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.sampled_from([2, 3]), seeds, st.booleans())
def test_closest_codes_are_the_brute_force_optimum(inputs: int, bits: int, seed: int, negative: bool) -> None:
    w = gaussian(3, inputs, seed)
    hessian = damped(np.stack([correlated_hessian(inputs, seed + g) for g in range(3)]))
    weight_format = PerBlock(bits, 16)
    sign = np.float32(-1 if negative else 1)
    grid = Grid(weight_format, sign * np.full((3, 1), 0.6, np.float32), None, 16)
    incumbent = grid.nearest(w)
    found = closest_codes(w, grid, hessian, incumbent)
    every = np.array(list(itertools.product(range(weight_format.low, weight_format.high + 1), repeat=inputs)))
    values = every.astype(np.float32) * grid.scales[0, 0]
    for channel in range(3):
        error = w[channel] - values
        least = np.einsum("nk,kl,nl->n", error, hessian[channel], error, dtype=np.float64).min()
        ours = min(output_error(w, q.dequantize(), hessian)[channel] for q in (found, incumbent))
        assert ours <= least * (1 + 1e-4) + 1e-9


def test_exact_beats_descent_on_depthwise_kernels() -> None:
    w = gaussian(32, 9)
    hessian = np.stack([correlated_hessian(9, seed) for seed in range(32)])
    for bits in (3, 4, 8):
        weight_format = PerChannel(bits)
        exact, descent = (total_error(w, weight_format, method, hessian) for method in ("exact", "descent"))
        assert exact < 0.9 * descent


def test_exact_is_for_short_rows() -> None:
    with pytest.raises(ValueError, match="up to 9 weights"):
        quantize_weight(gaussian(2, 25), PerChannel(4), method="exact", hessian=np.eye(25))
