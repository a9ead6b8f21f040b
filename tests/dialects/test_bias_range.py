"""int8 layers whose biases and weights differ by many orders of magnitude: biases fit int32, and nothing is lost.

Sessions add integers exactly, whatever the CPU: saturation is not what this is about."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxmpq.schemes import scheme_named
from tests.dialects.cases import Case
from tests.graphs import graph, initializer, outputs_of

Floats = NDArray[np.float32]
CHANNELS, INPUTS = 8, 24
GRAPHS = {
    "conv": ("y = Conv <kernel_shape = [1, 1]> (x, w, b)", "float[N, 24, 2, 2] x", "float[8, 24, 1, 1] w"),
    "gemm": ("y = Gemm <transB = 1> (x, w, b)", "float[N, 24] x", "float[8, 24] w"),
}
SMALLEST_SCALE = 1e-12  # of activations that are always 0
exponents = st.lists(st.integers(-12, 6), min_size=CHANNELS, max_size=CHANNELS)
zeros = st.lists(st.booleans(), min_size=CHANNELS, max_size=CHANNELS)


def layer(kind: str, weights: Floats, biases: Floats, dead: bool) -> Case:
    """One layer; dead: behind a Relu that never opens."""
    body, inputs, weight = GRAPHS[kind]
    body = f"n = Abs (x)  m = Neg (n)  r = Relu (m)  {body.replace('(x', '(r')}" if dead else body
    outputs = "float[a, b, c, d] y" if kind == "conv" else "float[a, b] y"
    proto = graph(body, inputs, outputs, f"{weight}, float[8] b")
    for tensor in proto.graph.initializer:
        values = (
            (initializer(proto, "w") * weights.reshape(-1, *[1] * (len(tensor.dims) - 1)))
            if tensor.name == "w"
            else biases
        )
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return Case(kind, proto)


@settings(max_examples=25, deadline=None)
@given(
    weights=exponents,
    biases=exponents,
    empty=zeros,
    unbiased=zeros,
    dead=st.booleans(),
    kind=st.sampled_from(sorted(GRAPHS)),
)
@example([-8] * 4 + [0] * 4, [1] * 8, [False] * 8, [False] * 8, False, "conv")
@example([0] * 8, [0] * 8, [True] * 4 + [False] * 4, [False] * 8, False, "gemm")
@example([0] * 8, [3] * 8, [False] * 8, [False] * 8, True, "conv")
@example([0] * 7 + [4], [0] * 5 + [-9, 0, -10], [False] * 8, [True] * 5 + [False, True, False], True, "conv")
@pytest.mark.parametrize("scheme", ["int8", "w4a8"])
def test_error_is_within_what_the_scales_imply(
    scheme: str, weights: list[int], biases: list[int], empty: list[bool], unbiased: list[bool], dead: bool, kind: str
) -> None:
    spread = np.where(empty, 0.0, 10.0 ** np.array(weights)).astype(np.float32)
    given = np.where(unbiased, 0.0, 10.0 ** np.array(biases)).astype(np.float32)
    case = layer(kind, spread, given, dead)
    (region,) = [r for r in case.model.regions if r.layer]
    made = case.rewrite({region.name: scheme_named(scheme)})
    sample = case.feeds.batch(range(8))
    found = (outputs_of(proto, sample, exact_integers=True)["y"] for proto in (case.proto, made))
    before, after = (np.moveaxis(y, 1, 0).reshape(CHANNELS, -1) for y in found)
    matrix = np.abs(case.model.matrix(region.params.weights[0]))
    reach = np.abs(case.feeds.batch(range(8))["x"]).max() * (0.0 if dead else 1.0)
    bits = 4 if scheme == "w4a8" else 8
    weight_error = matrix.max(axis=1) / (2 ** (bits - 1) - 1) * INPUTS * reach
    input_error = matrix.sum(axis=1) * reach / 128
    written = np.ptp(np.append(before, 0.0)) / 255
    bias_step = matrix.max(axis=1) / (2 ** (bits - 1) - 1) * max(reach / 127, SMALLEST_SCALE)
    allowed = weight_error + input_error + given * 2e-5 + bias_step / 2 + written
    assert np.all(np.abs(before - after).max(axis=1) <= allowed)


def test_biases_leave_room_for_the_sum() -> None:
    case = layer("conv", np.full(CHANNELS, 1e-9, np.float32), np.full(CHANNELS, 1e6, np.float32), False)
    made = case.rewrite(case.everywhere("int8"))
    (codes,) = [onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT32]
    assert np.all(np.abs(codes.astype(np.int64)) <= 2**30)
    assert np.all(codes > 2**29)
