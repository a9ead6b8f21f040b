from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.rounding import QuantizedWeight, WeightFormat, effective_block, quantize_weight

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
    assert effective_block(case.inputs, case.block) == case.expected


@given(st.integers(1, 5000), st.integers(1, 300))
def test_effective_block_divides(inputs: int, block: int) -> None:
    assert inputs % effective_block(inputs, block) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 1, "kind": "channel"},
        {"bits": 9, "kind": "channel"},
        {"bits": 4, "kind": "block"},
        {"bits": 4, "kind": "channel", "block": 32},
        {"bits": 4, "kind": "block", "block": 0},
        {"bits": 8, "kind": "dual", "block": 64},
        {"bits": 4, "kind": "dual", "block": 64, "negative_scales": True},
    ],
    ids=str,
)
def test_impossible_formats_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wrong"):
        WeightFormat("wrong", **wrong)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused() -> None:
    codes, scales = np.zeros((4, 32), np.int8), np.ones(4, np.float32)
    with pytest.raises(ValueError, match="scales"):
        QuantizedWeight(WeightFormat.per_channel(8), codes, np.ones((4, 2), np.float32), None, 32)
    with pytest.raises(ValueError, match="multipliers belong"):
        QuantizedWeight(WeightFormat.dual(16), codes, scales, None, 16)
    with pytest.raises(ValueError, match=r"not \(4, 2\)"):
        QuantizedWeight(WeightFormat.dual(16), codes, scales, np.ones((4, 1), np.uint8), 16)


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
    assert q.size_bytes == expected


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda f: f"{f.name}{'' if f.negative_scales else '+'}")
def test_dequantize_is_what_the_runtime_computes(weight_format: WeightFormat) -> None:
    """The whole pattern, spelled in ONNX and run by onnxruntime: bit for bit."""
    w = gaussian(6, 96)
    q = quantize_weight(w, weight_format)
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (int8[O, K] codes, float[S] scales) => (float[O, K] w) { w = DequantizeLinear <axis = 0> (codes, scales) }"""
    )
    if weight_format.kind == "block":
        node = model.graph.node[0]
        del node.attribute[:]
        node.attribute.extend([helper.make_attribute("axis", 1), helper.make_attribute("block_size", q.block)])
        model.graph.input[1].CopyFrom(helper.make_tensor_value_info("scales", TensorProto.FLOAT, ["O", "B"]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (computed,) = session.run(None, {"codes": q.int8_codes(), "scales": q.scales})
    np.testing.assert_array_equal(computed, q.dequantize())


@pytest.mark.parametrize(
    "plain", [WeightFormat.per_channel(8), *(WeightFormat.dual(16, b) for b in (4, 5, 6))], ids=lambda f: f.name
)
def test_formats_without_saturation(plain: WeightFormat) -> None:
    free = plain.without_saturation
    assert free.saturation_free and free.name == f"{plain.name}_saturation_free"
    assert free.without_saturation is free
    assert dataclasses.replace(free, name=plain.name, saturation_free=False) == plain
    assert (free.low, free.high, free.max_multiplier) == (plain.low, plain.high, plain.max_multiplier)


@pytest.mark.parametrize(
    "plain",
    [WeightFormat.per_channel(7), WeightFormat.per_block(8, 32), WeightFormat.fp8(), WeightFormat.fp8_dual()],
    ids=lambda f: f.name,
)
def test_formats_that_cannot_saturate(plain: WeightFormat) -> None:
    assert not plain.may_saturate
    with pytest.raises(ValueError, match="cannot saturate"):
        _ = plain.without_saturation
