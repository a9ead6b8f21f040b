"""Weights in plan files: exact, and refused where they were damaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.errors import PlanError
from onnxmpq.rounding import Dual, Fp8, Fp8Dual, PerBlock, PerChannel, WeightFormat, quantize_weight
from onnxmpq.weights import pack
from onnxmpq.weights.packed import pack_array, unpack

FORMATS = (
    PerChannel(8),
    Dual(4, 64),
    *(Dual(bits, 16) for bits in (5, 6)),
    PerBlock(4, 32),
    PerBlock(8, 128),
    PerBlock(4, 64, negative_scales=False, scale_type="float16"),
    Fp8(),
    Fp8Dual(64),
)
WEIGHT = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda f: f.name)
def test_packing_keeps_every_bit(weight_format: WeightFormat) -> None:
    weight = quantize_weight(WEIGHT, weight_format)
    again = unpack(pack(weight), weight_format, (5, 128), "here")
    np.testing.assert_array_equal(again.codes, weight.codes)
    np.testing.assert_array_equal(again.scales, weight.scales)
    np.testing.assert_array_equal(again.dequantize(), weight.dequantize())


@pytest.mark.parametrize(
    "damage",
    [
        {"codes": "not base64!"},
        {"codes": "AAAA"},
        {"codes": pack_array(np.zeros(7, np.int8))},
        {"codes": pack_array(np.full(5 * 128, 100, np.int8))},
        {"codes": pack_array(np.zeros(10**6, np.int8))},
        {"scales": pack_array(np.full(5, np.nan, "<f4"))},
        {"multipliers": ""},
        {"block": 3},
    ],
    ids=["text", "no_zlib", "too_few", "out_of_range", "too_many", "nan", "missing", "other_block"],
)
def test_damage_is_named(damage: dict[str, object]) -> None:
    packed = pack(quantize_weight(WEIGHT, Dual(4, 64)))
    with pytest.raises(PlanError, match="weights: conv"):
        unpack(replace(packed, **damage), Dual(4, 64), (5, 128), "weights: conv")
