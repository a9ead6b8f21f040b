"""Counts of saturated sums against the simulation of the kernels in tests/kernels.py, which knows nothing of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.rounding.overflow import LARGEST_SUM, SMALLEST_SUM
from onnxmpq.saturation import counts
from onnxmpq.saturation.counts import codes_of, count
from onnxmpq.saturation.layers import Source, Watched, Window
from tests.kernels import Codes, Convolution, sums

UINT8 = Source("x", "codes")
CONVOLUTIONS = {
    "1x1": Convolution(5, (1, 1)),
    "3x3": Convolution(3, (3, 3), pad=1, zero_point=200),
    "3x3, an even number of channels": Convolution(4, (3, 3), pad=1),
    "groups": Convolution(3, (3, 3), groups=4, pad=1, zero_point=130),
    "stride and dilation": Convolution(3, (3, 2), stride=2, dilation=2, pad=2, zero_point=255),
    "one dimension": Convolution(3, (5,), pad=2, zero_point=250),
    "three dimensions": Convolution(2, (2, 3, 2)),
    "one channel": Convolution(1, (5, 5), groups=2, pad=2, zero_point=99),
}


def window_of(layer: Convolution) -> Window:
    rank = len(layer.window)
    steps = ((layer.stride,) * rank, (layer.dilation,) * rank)
    return Window(layer.window, *steps, (layer.pad,) * 2 * rank, "NOTSET", layer.zero_point)


def expected(windows: Codes, filters: Codes) -> tuple[np.ndarray, np.ndarray]:
    """(affected, saturated) per channel, from codes [positions, G, K] and filters [G, R, K]."""
    affected = sums(windows, filters, 0, saturating=True) != sums(windows, filters, 0, saturating=False)
    products = windows[:, :, None] * filters[None]
    products = np.pad(products, [(0, 0)] * 3 + [(0, products.shape[-1] % 2)])
    pairs = products[..., ::2] + products[..., 1::2]
    outside = (pairs > LARGEST_SUM) | (pairs < SMALLEST_SUM)
    return affected.sum(axis=0).ravel(), outside.sum(axis=(0, 3)).ravel()


def images_of(layer: Convolution, seed: int, count: int = 3) -> Codes:
    generator = np.random.default_rng(seed)
    shape = [count, layer.groups * layer.channels, *((k - 1) * layer.dilation + 4 for k in layer.window)]
    return generator.integers(0, 256, shape)


@pytest.mark.parametrize("held", [counts._HELD, 40], ids=["channels at once", "channels one by one"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_HELD", held)
    layer = CONVOLUTIONS[name]
    filters = np.random.default_rng(7).integers(-128, 128, (layer.groups, 5, layer.inputs))
    images = images_of(layer, 8)
    windows = layer.windows(images)
    found = count(Watched(name, UINT8, filters.astype(np.int8), 255, window_of(layer)), images.astype(np.uint8))
    affected, saturated = expected(windows, filters)
    assert saturated.any()
    assert found.affected.tolist() == affected.tolist()
    assert found.saturated.tolist() == saturated.tolist()
    assert found.positions == len(windows)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_products(rows: int, inputs: int, channels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    filters = generator.choice([-128, -127, -100, -3, 0, 2, 64, 126, 127], (1, channels, inputs))
    codes = generator.choice([0, 1, 127, 128, 200, 254, 255], (rows, inputs))
    layer = Watched("product", UINT8, filters.astype(np.int8), 255)
    affected, saturated = expected(codes[:, None], filters)
    for found in (
        count(layer, codes.astype(np.uint8)),
        count(replace(layer, transposed=True), codes.T.astype(np.uint8)),
    ):
        assert (found.affected.tolist(), found.saturated.tolist()) == (affected.tolist(), saturated.tolist())
        assert found.positions == rows


def test_sums_that_cancel_change_no_value() -> None:
    """The pairs of the second row are 29963 above and 29963 below the ends of 16 bits; in the third only one is out."""
    layer = Watched("product", UINT8, np.array([[[120, 126, -120, -127]]], np.int8), 255)
    codes = np.array([[255, 0, 255, 0], [255, 255, 255, 253], [255, 255, 0, 0]], np.uint8)
    found = count(layer, codes)
    assert (found.saturated.tolist(), found.affected.tolist()) == ([3], [1])


STACKS = {  # shape of the activation, of the stack of weights
    "a stack of each": ((2, 3, 4, 6), (2, 3)),
    "activations spread": ((4, 6), (3,)),
    "weights spread": ((2, 3, 4, 6), (1, 3)),
    "one matrix of weights": ((2, 3, 4, 6), ()),
    "a stack of one": ((5, 4, 6), (1,)),
    "a vector": ((6,), ()),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_of_matrices(name: str) -> None:
    shape, stack = STACKS[name]
    generator = np.random.default_rng(5)
    weight = generator.integers(-128, 128, (*stack, 6, 7))
    codes = generator.integers(0, 256, shape)
    filters = np.swapaxes(weight, -1, -2).reshape(-1, 7, 6).astype(np.int8)
    found = count(Watched(name, UINT8, filters, 255, stack=stack), codes.astype(np.uint8))
    pairs = np.zeros((*np.matmul(codes, weight).shape, 3), np.int64)
    for p in range(3):
        pairs[..., p] = np.matmul(codes[..., 2 * p : 2 * p + 2], weight[..., 2 * p : 2 * p + 2, :])
    over = pairs - np.clip(pairs, SMALLEST_SUM, LARGEST_SUM)
    assert int(found.saturated.sum()) == np.count_nonzero(over)
    assert int(found.affected.sum()) == np.count_nonzero(over.sum(axis=-1))
    assert found.positions * found.affected.size == over[..., 0].size
    assert found.saturated.any()


def test_codes() -> None:
    wanted = np.array([0, 3, 200, 255], np.uint8)
    assert codes_of(wanted, UINT8).tolist() == wanted.tolist()
    shifted = (wanted.astype(np.int16) - 128).astype(np.int8)
    assert codes_of(shifted, Source("x", "codes", 128)).tolist() == wanted.tolist()
    floats = ((wanted.astype(np.float32) - 7) * np.float32(0.013)).astype(np.float32)
    assert codes_of(floats, Source("x", "values", 0, 0.013, 7)).tolist() == wanted.tolist()
    assert codes_of(floats, Source("x", "values", 128, 0.013, -121)).tolist() == wanted.tolist()
    assert codes_of(floats, Source("x", "dynamic")).tolist() == wanted.tolist()
    assert codes_of(np.zeros(2, np.float32), Source("x", "dynamic")).tolist() == [0, 0]
