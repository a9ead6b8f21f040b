"""Codes with zero points: every block fits uint4, whatever method rounds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import PlanError
from onnxmpq.rounding import AffineBlock, PerBlock, QuantizedWeight, quantize_weight
from onnxmpq.weights import pack, unpack
from tests.rounding.strategies import correlated_hessian, gaussian, weights

BLOCK = 16


def spread(weight: QuantizedWeight) -> int:
    """Codes between the smallest and the largest of any block, 0 among them."""
    starts = np.arange(0, weight.codes.shape[1], weight.block)
    top, bottom = (f.reduceat(weight.codes.astype(int), starts, axis=1) for f in (np.maximum, np.minimum))
    return int((np.maximum(top, 0) - np.minimum(bottom, 0)).max(initial=0))


@given(weights, st.sampled_from(["nearest", "gptq", "descent"]))
def test_codes_of_a_block_fit_four_bits(w: np.ndarray, method: str) -> None:
    hessian = None if method == "nearest" else correlated_hessian(w.shape[1])
    weight = quantize_weight(w, AffineBlock(BLOCK), method=method, hessian=hessian)
    assert spread(weight) <= 15
    zeros = weight.grid.zero_points
    assert zeros is not None and zeros.max(initial=0) <= 15
    raised = weight.codes + np.repeat(zeros, BLOCK, axis=1)[:, : w.shape[1]].astype(int)
    assert raised.min(initial=0) >= 0 and raised.max(initial=0) <= 15
    restored = unpack(pack(weight), weight.format, (w.shape[0], w.shape[1]), "here")
    np.testing.assert_array_equal(restored.dequantize(), weight.dequantize())


def test_weights_of_one_sign_have_all_codes() -> None:
    w = np.abs(gaussian(8, 64)) + 1.0
    shifted, middle = (quantize_weight(w, f).dequantize() for f in (AffineBlock(BLOCK), PerBlock(4, BLOCK)))
    assert np.square(shifted - w).sum() < 0.5 * np.square(middle - w).sum()


@pytest.mark.parametrize("codes", [[-8, 8], [15, -1]], ids=str)
def test_codes_too_far_apart_are_refused(codes: list[int]) -> None:
    stored = np.array([codes], np.int8)
    with pytest.raises(ValueError, match="more than 15 apart"):
        QuantizedWeight(AffineBlock(BLOCK), stored, np.ones((1, 1), np.float32), None, BLOCK)
    packed = pack(QuantizedWeight(PerBlock(8, BLOCK), stored, np.ones((1, 1), np.float32), None, BLOCK))
    with pytest.raises(PlanError, match=r"w\.codes: .* more than 15 apart"):
        unpack(packed, AffineBlock(BLOCK), (1, 2), "w")
