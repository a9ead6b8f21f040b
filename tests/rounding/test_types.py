from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.rounding import Dual, Fp8, Fp8Dual, PerBlock, PerChannel, QuantizedWeight, WeightFormat, quantize_weight
from onnxmpq.rounding.types import ScaleType

from .strategies import FORMATS, formats, gaussian, weights


@dataclass(frozen=True)
class BlockCase:
    inputs: int
    block: int
    expected: int


@pytest.mark.parametrize(
    "case",
    [
        BlockCase(768, 64, 64),
        BlockCase(576, 64, 64),
        BlockCase(27, 64, 27),
        BlockCase(144, 64, 48),
        BlockCase(9, 64, 9),
        BlockCase(144, 16, 16),
        BlockCase(36, 16, 12),
        BlockCase(27, 16, 9),
        BlockCase(147, 16, 21),  # 3 · 7 · 7: no divisor in 8..16
        BlockCase(134, 64, 67),  # 2 · 67: none in 8..64
        BlockCase(147, 64, 49),
        BlockCase(97, 64, 97),
    ],
    ids=lambda c: f"{c.inputs}by{c.block}",
)
def test_effective_block(case: BlockCase) -> None:
    assert Dual(4, case.block).block_width(case.inputs) == case.expected


@given(st.integers(1, 5000), st.integers(1, 300))
def test_effective_block_divides(inputs: int, block: int) -> None:
    assert inputs % Dual(4, block).block_width(inputs) == 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda: PerChannel(1), "int1_channel: .* not 1"),
        (lambda: PerChannel(9), "int9_channel: .* not 9"),
        (lambda: PerChannel(7, saturation_free=True), "int7_channel_saturation_free: .* cannot saturate"),
        (lambda: PerBlock(9, 32), "int9_block32: .* not 9"),
        (lambda: PerBlock(4, 0), "int4_block0: .* not 0"),
        (lambda: Dual(8, 64), "int8_dual64: .* not 8"),
        (lambda: Dual(4, 0), "int4_dual0: .* not 0"),
        (lambda: Fp8Dual(0), "int4_fp8_dual0: .* not 0"),
    ],
)
def test_impossible_formats_are_refused(wrong: Callable[[], WeightFormat], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wrong()


def test_names_of_formats() -> None:
    """Plans name formats: a name that changes makes plans written before unreadable."""
    formats = [
        PerChannel(8),
        PerChannel(8, saturation_free=True),
        PerBlock(4, 32),
        PerBlock(4, 32, negative_scales=False),
        PerBlock(4, 64, negative_scales=False, scale_type="float16"),
        Dual(5, 16),
        Dual(4, 16, saturation_free=True),
        Fp8(),
        Fp8Dual(64),
    ]
    assert [f.name for f in formats] == [
        "int8_channel",
        "int8_channel_saturation_free",
        "int4_block32",
        "int4_block32",
        "int4_block64_float16",
        "int5_dual16",
        "int4_dual16_saturation_free",
        "fp8_channel",
        "int4_fp8_dual64",
    ]


def test_shapes_that_do_not_fit_are_refused() -> None:
    codes, scales = np.zeros((4, 32), np.int8), np.ones(4, np.float32)
    with pytest.raises(ValueError, match="scales"):
        QuantizedWeight(PerChannel(8), codes, np.ones((4, 2), np.float32), None, 32)
    with pytest.raises(ValueError, match="multipliers belong"):
        QuantizedWeight(Dual(4, 16), codes, scales, None, 16)
    with pytest.raises(ValueError, match=r"not \(4, 2\)"):
        QuantizedWeight(Dual(4, 16), codes, scales, np.ones((4, 1), np.uint8), 16)


STORAGE = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}


def onnx_bytes(values: np.ndarray, data_type: int) -> int:
    tensor = helper.make_tensor("t", data_type, values.shape, values.ravel().tolist())
    return len(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)


@given(weights, formats)
def test_size_bytes_is_what_onnx_writes(w: np.ndarray, weight_format: WeightFormat) -> None:
    q = quantize_weight(w, weight_format)
    expected = onnx_bytes(q.codes, STORAGE[weight_format.storage_bits]) + onnx_bytes(q.scales, TensorProto.FLOAT)
    expected += -(-w.size * weight_format.low_bits // 8)
    if q.multipliers is not None:
        expected += onnx_bytes(q.multipliers, TensorProto.UINT4)
    if weight_format.shifted:
        expected += sum(onnx_bytes(np.zeros(q.scales.shape[1]), TensorProto.UINT4) for _ in w)  # row by row
    assert q.size_bytes == expected


@pytest.mark.parametrize("scale_type", ["float32", "float16"])
def test_scales_take_as_many_bits_in_modelled_memory_as_in_the_file(scale_type: ScaleType) -> None:
    w, weight_format = gaussian(6, 128), PerBlock(4, 64, negative_scales=False, scale_type=scale_type)
    in_file = quantize_weight(w, weight_format).size_bytes
    assert 8 * in_file == weight_format.bits * w.size + weight_format.side_bits(*w.shape)


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda f: f"{f.name}{'' if f.negative_scales else '+'}")
def test_dequantize_is_what_the_runtime_computes(weight_format: WeightFormat) -> None:
    """The whole pattern, spelled in ONNX and run by onnxruntime: bit for bit."""
    w = gaussian(6, 96)
    q = quantize_weight(w, weight_format)
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (int8[O, K] codes, float[S] scales) => (float[O, K] w) { w = DequantizeLinear <axis = 0> (codes, scales) }"""
    )
    if weight_format.blocked:
        node = model.graph.node[0]
        del node.attribute[:]
        node.attribute.extend([helper.make_attribute("axis", 1), helper.make_attribute("block_size", q.block)])
        model.graph.input[1].CopyFrom(helper.make_tensor_value_info("scales", TensorProto.FLOAT, ["O", "B"]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (computed,) = session.run(None, {"codes": q.int8_codes(), "scales": q.scales})
    np.testing.assert_array_equal(computed, q.dequantize())


@pytest.mark.parametrize("plain", [PerChannel(8), *(Dual(b, 16) for b in (4, 5, 6))], ids=lambda f: f.name)
def test_formats_without_saturation(plain: WeightFormat) -> None:
    free = plain.without_saturation
    assert free.saturation_free and free.name == f"{plain.name}_saturation_free"
    assert free.without_saturation == free
    assert dataclasses.replace(free, saturation_free=False) == plain
    assert (free.low, free.high) == (plain.low, plain.high)


@pytest.mark.parametrize(
    "plain",
    [PerChannel(7), PerBlock(8, 32), Fp8(), Fp8Dual()],
    ids=lambda f: f.name,
)
def test_formats_that_cannot_saturate(plain: WeightFormat) -> None:
    assert not plain.may_saturate
    with pytest.raises(ValueError, match="cannot saturate"):
        _ = plain.without_saturation


@given(st.sampled_from([f for f in FORMATS if not f.blocked]), weights, st.integers(0, 2**32 - 1))
def test_coarser_steps(weight_format: WeightFormat, w: np.ndarray, seed: int) -> None:
    """No product of code and multiplier grows, and each weight is off by at most half a step of its block more."""
    factors = np.exp2(np.random.default_rng(seed).uniform(0, 12, len(w)))
    factors[::2] = 1.0
    before = quantize_weight(w, weight_format)
    after = before.coarser(factors)
    assert np.all(np.abs(after.int8_codes().astype(int)) <= np.abs(before.int8_codes().astype(int)))
    assert np.array_equal(
        after.of(np.arange(0, len(w), 2)).dequantize(), before.of(np.arange(0, len(w), 2)).dequantize()
    )
    multipliers = np.ones((len(w), 1)) if after.multipliers is None else after.multipliers
    steps = np.abs(after.scales[:, None]) * multipliers.max(axis=1, keepdims=True, initial=1)
    assert np.all(np.abs(after.dequantize() - before.dequantize()) <= 0.51 * steps)
