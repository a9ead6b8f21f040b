"""Counts of whole graphs: their codes are read where the kernels read them."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from onnxmpq.errors import CrashError, ModelError
from onnxmpq.feeds.types import Feeds, InputSpec
from onnxmpq.isolation import isolated
from onnxmpq.saturation import Observed, observe, specs
from onnxmpq.saturation.layers import suspects
from onnxmpq.saturation.observed import Seen
from tests.isolation.functions import die
from tests.kernels import Codes, sums
from tests.lint.cases import INT8_CONV, INT8_MATMUL, KERNEL, MATRIX, OUT_S8, OUT_U8, S8, U8, changed, features, model

ROWS, CHANNELS = (4, 128), (2, 16, 8, 8)


def weights_of(proto: onnx.ModelProto) -> Codes:
    """Wild ones for the initializer w."""
    [stored] = [t for t in proto.graph.initializer if t.name == "w"]
    values = np.random.default_rng(3).integers(-128, 128, tuple(stored.dims)).astype(np.int8)
    stored.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    return values.astype(np.int64)


def observed(proto: onnx.ModelProto, values: np.ndarray) -> Observed:
    """On samples whose first axis is that of `values`."""
    spec = InputSpec("x", np.dtype(np.float32), tuple(values.shape[1:]))
    return observe(suspects(proto), Feeds({"x": values.astype(np.float32)}, (spec,), "samples of a test"))


def only(found: Observed) -> Seen:
    [layer] = found.layers
    assert layer.counted
    return layer


MATMULS = {  # graph -> zero point of its activation as uint8
    "Q/DQ pair": (model(U8 + INT8_MATMUL, MATRIX), 0),
    "with a zero point": (changed(model(U8 + INT8_MATMUL, MATRIX), z8=30), 30),
    "int8": (changed(model(S8 + INT8_MATMUL, MATRIX), z=-100), 28),
    "behind an operator that moves values": (
        model(U8.replace(" d =", " p =") + "d = Identity (p) " + INT8_MATMUL, MATRIX),
        0,
    ),
    "int8, behind one": (
        changed(model(S8.replace(" d =", " p =") + "d = Identity (p) " + INT8_MATMUL, MATRIX), z=-100),
        28,
    ),
    "transposed": (
        model(
            "u = Transpose (x) q = QuantizeLinear (u, s, z8) d = DequantizeLinear (q, s, z8) "
            "e = DequantizeLinear <axis = 1> (w, sw, zw) y = Gemm <transA = 1> (d, e)",
            MATRIX,
        ),
        0,
    ),
    "MatMulInteger": (
        model(
            "q = QuantizeLinear (x, s, z8) i = MatMulInteger (q, w, z8) y = Cast <to = 1> (i)",
            "int8[128, 32] w, ",
        ),
        0,
    ),
    "QLinearMatMul": (
        model(
            "q = QuantizeLinear (x, s, z8) p = QLinearMatMul (q, s, z8, w, s, z, s, z8) "
            "y = DequantizeLinear (p, s, z8)",
            "int8[128, 32] w, ",
        ),
        0,
    ),
}


@pytest.mark.parametrize("name", MATMULS)
def test_products(name: str) -> None:
    proto, zero_point = MATMULS[name]
    weight = weights_of(proto)
    codes = np.random.default_rng(4).integers(0, 256, (3, *ROWS))
    seen = only(observed(proto, (codes - zero_point) * 0.02))
    rows, filters = codes.reshape(-1, 1, 128), weight.T[None]
    differs = sums(rows, filters, 0, saturating=True) != sums(rows, filters, 0, saturating=False)
    assert seen.affected.tolist() == differs.sum(axis=0).ravel().tolist()
    assert 0 < seen.did <= seen.layer.can <= 32
    assert (seen.values, seen.sums) == (12 * 32, 12 * 32 * 64)


def test_values_that_the_node_quantizes_itself() -> None:
    proto = model("y = com.microsoft.DynamicQuantizeMatMul (x, w, s, z)", "int8[128, 32] w, ")
    weight = weights_of(proto)
    codes = np.random.default_rng(4).integers(0, 256, (3, *ROWS))
    codes[:, 0, :2] = 0, 255
    seen = only(observed(proto, (codes - 40) * 0.5))
    rows, filters = codes.reshape(-1, 1, 128), weight.T[None]
    differs = sums(rows, filters, 0, saturating=True) != sums(rows, filters, 0, saturating=False)
    assert seen.affected.tolist() == differs.sum(axis=0).ravel().tolist()


CONVS = {  # attributes of a Conv -> paddings of both dimensions, before and behind
    "kernel_shape = [3, 3]": ((0, 0), (0, 0)),
    "kernel_shape = [3, 3], pads = [1, 0, 2, 1]": ((1, 2), (0, 1)),
    'kernel_shape = [3, 3], strides = [2, 1], auto_pad = "SAME_UPPER"': ((0, 1), (1, 1)),
    'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_LOWER"': ((1, 0), (1, 0)),
    'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "VALID"': ((0, 0), (0, 0)),
    "kernel_shape = [3, 3], dilations = [2, 1], strides = [1, 3]": ((0, 0), (0, 0)),
}


def conv(pairs: str, attributes: str, out: str) -> onnx.ModelProto:
    plain = "Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
    assert plain in INT8_CONV
    return features(pairs + INT8_CONV.replace(plain, f"Conv <{attributes}>") + out, KERNEL)


@pytest.mark.parametrize("signed", [False, True], ids=["uint8", "int8"])
@pytest.mark.parametrize("attributes", CONVS)
def test_convolutions(attributes: str, signed: bool) -> None:
    """Windows are cut here position by position, from an image padded by hand."""
    proto = changed(conv(S8, attributes, OUT_S8), z=72) if signed else changed(conv(U8, attributes, OUT_U8), z8=200)
    weight = weights_of(proto)
    codes = np.random.default_rng(6).integers(0, 256, (3, *CHANNELS))
    seen = only(observed(proto, (codes - 200) * 0.02))
    image = np.pad(codes.reshape(6, *CHANNELS[1:]), ((0, 0), (0, 0), *CONVS[attributes]), constant_values=200)
    strides, dilations = (given_of(attributes, name) for name in ("strides", "dilations"))
    windows = []
    for top in range(0, image.shape[2] - 2 * dilations[0], strides[0]):
        for left in range(0, image.shape[3] - 2 * dilations[1], strides[1]):
            cut = image[
                :, :, top : top + 3 * dilations[0] : dilations[0], left : left + 3 * dilations[1] : dilations[1]
            ]
            windows.append(cut[:, :, :3, :3].transpose(0, 2, 3, 1).reshape(6, 1, -1))
    filters = weight.transpose(0, 2, 3, 1).reshape(1, 16, -1)
    rows = np.concatenate(windows)
    differs = sums(rows, filters, 0, saturating=True) != sums(rows, filters, 0, saturating=False)
    assert seen.values == differs.size
    assert seen.affected.tolist() == differs.sum(axis=0).ravel().tolist()
    assert seen.did


def given_of(attributes: str, name: str) -> tuple[int, int]:
    found = re.search(rf"{name} = \[(\d+), (\d+)\]", attributes)
    return (int(found[1]), int(found[2])) if found else (1, 1)


def test_codes_that_never_reach_the_end() -> None:
    proto = changed(model(U8 + INT8_MATMUL, MATRIX), w=127)
    seen = only(observed(proto, np.full((2, *ROWS), 0.02 * 100)))
    assert seen.layer.can == 32 and seen.did == 0 and seen.values == 2 * 4 * 32
    assert only(observed(proto, np.full((2, *ROWS), 0.02 * 130))).did == 32


def test_nothing_to_count() -> None:
    found = observed(model("y = Relu (x)"), np.zeros((1, *ROWS)))
    assert (found.layers, found.integer_layers) == ((), 0)
    found = observed(changed(model(U8 + INT8_MATMUL, MATRIX), w=64), np.zeros((1, *ROWS)))
    assert (found.layers, found.integer_layers) == ((), 1)


def test_what_cannot_be_counted_says_why() -> None:
    proto = model(
        "r = Unsqueeze (x, b1) l = com.microsoft.DynamicQuantizeLSTM <hidden_size = 8> (r, w, v, , , , , , s, z, s, z) "
        "y = Flatten (l)",
        "int64[1] b1, int8[1, 128, 32] w, int8[1, 8, 32] v, ",
    )
    [seen] = observed(changed(proto, w=127), np.zeros((1, *ROWS))).layers
    assert not seen.counted and "inside the node" in seen.layer.reason
    assert (seen.layer.can, seen.values, seen.did) == (32, 0, 0)


def test_layers_in_bodies_are_not_counted() -> None:
    inside = "o = com.microsoft.DynamicQuantizeMatMul (x, w, s, z)"
    bodies = [f"{name}_branch = {name} () => (float[A, B] o) {{ {inside} }}" for name in ("then", "else")]
    proto = model(f"k = Constant <value = bool {{1}}> () y = If <{', '.join(bodies)}> (k)", MATRIX)
    found = observed(changed(proto, w=127), np.zeros((1, *ROWS)))
    assert [s.layer.reason for s in found.layers] == ["it is in the body of another node"] * 2


def test_a_crash_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.saturation.observed._count_run", lethal)
    proto = changed(model(U8 + INT8_MATMUL, MATRIX), w=127)
    with isolated(), pytest.raises(CrashError, match="while running sample 0"):
        observed(proto, np.zeros((1, *ROWS)))


def lethal(*_: object) -> None:
    die()


def test_samples_that_the_model_does_not_take() -> None:
    proto = changed(model(U8 + INT8_MATMUL, MATRIX), w=127)
    with pytest.raises(ModelError, match="cannot run the model on this input"):
        observed(proto, np.zeros((1, 4, 64)))
    [spec] = specs(proto)
    assert (spec.name, spec.shape) == ("x", ROWS)
