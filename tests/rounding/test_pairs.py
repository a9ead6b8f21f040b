"""Rounding under the bound on pairs: it is kept by every method, for every order, and costs little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.rounding import METHODS, Dual, PairBound, PerBlock, PerChannel, WeightFormat, gptq, quantize_weight
from onnxmpq.rounding.exact import EXACT_INPUTS
from onnxmpq.rounding.overflow import overflowing_channels
from onnxmpq.rounding.second_order import damped, output_error

from .strategies import FORMATS, correlated_hessian, gaussian

BOUNDED = [PerChannel(8), *(Dual(bits, 16) for bits in (4, 5, 6))]
sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)


def in_order(inputs: int, seed: int) -> np.ndarray:
    """Some order of the inputs, as window positions and channels make one."""
    return np.random.default_rng(seed).permutation(inputs)


@settings(deadline=None, max_examples=120)
@given(sizes, sizes, st.sampled_from(BOUNDED), st.sampled_from(sorted(METHODS)), seeds, st.integers(129, 255))
def test_every_method_keeps_the_bound(
    channels: int, inputs: int, weight_format: WeightFormat, method: str, seed: int, largest_code: int
) -> None:
    inputs = min(inputs, EXACT_INPUTS) if method == "exact" else inputs
    w = np.sign(gaussian(channels, inputs, seed)) * np.abs(gaussian(channels, inputs, seed)) ** 0.25  # many large ones
    columns = in_order(inputs, seed)
    bound = PairBound.of(columns, largest_code)
    q = quantize_weight(w, weight_format, method=method, hessian=correlated_hessian(inputs, seed), bound=bound)
    codes = q.int8_codes()
    assert not overflowing_channels(codes[:, columns], largest_code).any()
    assert bound.obeyed(codes).all()
    assert q.codes.min() >= weight_format.low and q.codes.max() <= weight_format.high


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, seeds)
def test_obeyed_is_what_overflows_nowhere(channels: int, inputs: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-128, 128, (channels, inputs)).astype(np.int8)
    codes[::2] //= 2
    columns = in_order(inputs, seed)
    np.testing.assert_array_equal(PairBound.of(columns).obeyed(codes), ~overflowing_channels(codes[:, columns]))


@pytest.mark.parametrize("weight_format", BOUNDED, ids=lambda f: f.name)
@pytest.mark.parametrize("method", ["nearest", "gptq", "best"])
def test_weights_that_obey_anyway_are_rounded_as_without_it(weight_format: WeightFormat, method: str) -> None:
    w, hessian = gaussian(8, 32), correlated_hessian(32)
    loose = PairBound.of(np.arange(32), 128)  # that no int8 codes break
    free, kept = (quantize_weight(w, weight_format, method=method, hessian=hessian, bound=b) for b in (None, loose))
    np.testing.assert_array_equal(free.codes, kept.codes)
    np.testing.assert_array_equal(free.scales, kept.scales)


@pytest.mark.parametrize(
    "weight_format", [*FORMATS, *BOUNDED], ids=lambda f: f"{f.name}{'' if f.negative_scales else '+'}"
)
def test_runs_side_by_side_are_those_one_by_one(weight_format: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for last bits of products, which differ where a library multiplies other shapes in another order."""
    w, hessian = gaussian(13, 40), correlated_hessian(40)
    w[:4] = np.sign(w[:4]) * np.abs(w[:4]) ** 0.25
    bound = PairBound.of(in_order(40, 0)) if weight_format in BOUNDED else None
    errors = []
    for values in (gptq.SIDE_BY_SIDE, 3 * w.size, 1):
        monkeypatch.setattr(gptq, "SIDE_BY_SIDE", values)
        rounded = quantize_weight(w, weight_format, method="gptq", hessian=hessian, bound=bound)
        errors.append(output_error(w, rounded.dequantize(), damped(hessian[None])))
    np.testing.assert_allclose(errors[1:], [errors[0]] * 2, rtol=0.02)


@pytest.mark.parametrize("inputs", [27, 64, 144])
def test_it_loses_less_than_the_smallest_stretch(inputs: int) -> None:
    """Nearest rounding with each channel's scale stretched as far as the bound asks is what it has to beat."""
    w, hessian = gaussian(32, inputs), correlated_hessian(inputs)
    h = damped(hessian[None])
    columns, int8 = np.arange(inputs), PerChannel(8)
    free = quantize_weight(w, int8)
    steps = free.scales[:, None]
    for stretch in np.linspace(1, 3, 401, dtype=np.float32):
        broken = overflowing_channels(np.clip(np.rint(w / steps), -127, 127))
        steps = np.where(broken[:, None], free.scales[:, None] * stretch, steps)
    stretched = output_error(w, np.clip(np.rint(w / steps), -127, 127) * steps, h).sum()
    unbounded = output_error(w, quantize_weight(w, int8, method="best", hessian=hessian).dequantize(), h).sum()
    bound = PairBound.of(columns)
    best = output_error(w, quantize_weight(w, int8, method="best", hessian=hessian, bound=bound).dequantize(), h).sum()
    nearest = quantize_weight(w, int8, bound=bound).dequantize()
    plain = np.clip(np.rint(w / steps), -127, 127) * steps
    assert np.square(w - nearest).sum() < np.square(w - plain).sum()
    assert best < 0.5 * stretched
    assert unbounded <= best < 2.0 * unbounded


def test_a_bound_is_for_formats_that_are_multiplied_as_int8() -> None:
    with pytest.raises(ValueError, match="is not multiplied as int8"):
        quantize_weight(gaussian(2, 4), PerBlock(4, 32), bound=PairBound.of(np.arange(4)))
