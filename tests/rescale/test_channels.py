"""Rescaled models compute what they did, and what cannot be rescaled is left alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import PlanError
from onnxmpq.model import prepare
from onnxmpq.rescale import find_channels, rescaled, restore_factors
from onnxmpq.weights import pack_array
from tests.graphs import conv_relu, graph, outputs_of, residual_cnn, samples_for, token_model

CONV = "Conv <kernel_shape = [1, 1]>"
IMAGE, FEATURES = "float[N, 4, 6, 6] x", "float[N, 4, 6, 6] y"


@dataclass(frozen=True)
class Case:
    """count: factors left free. divided, multiplied: constants that make and that read those channels."""

    name: str
    proto: onnx.ModelProto
    count: int
    divided: tuple[str, ...] = ()
    multiplied: tuple[str, ...] = ()


def cnn(body: str, weights: str, image: str = IMAGE) -> onnx.ModelProto:
    return graph(body, image, FEATURES, weights)


ATTENTION = graph(
    """n = LayerNormalization (x, g, e)
       q = MatMul (n, wq)
       k0 = MatMul (n, wk)
       v0 = MatMul (n, wv)
       v1 = Add (v0, bv)
       v2 = Reshape (v1, heads)
       v = Transpose <perm = [0, 2, 1, 3]> (v2)
       q2 = Reshape (q, heads)
       q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
       k2 = Reshape (k0, heads)
       k = Transpose <perm = [0, 2, 3, 1]> (k2)
       s = MatMul (q3, k)
       p = Softmax (s)
       a0 = MatMul (p, v)
       a1 = Transpose <perm = [0, 2, 1, 3]> (a0)
       a = Reshape (a1, joined)
       o = MatMul (a, wo)
       y = Add (x, o)""",
    "float[2, 5, 8] x",
    "float[2, 5, 8] y",
    "float[8] g, float[8] e, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8] bv, float[8, 8] wo, "
    "int64[4] heads = {2, 5, 2, 4}, int64[3] joined = {2, 5, 8}",
)
POOLED = graph(
    """a = MatMul (x, w0)
       u = Unsqueeze (a, one)
       p = AveragePool <kernel_shape = [1, 3], pads = [0, 1, 0, 1]> (u)
       s = Squeeze (p, one)
       y = MatMul (s, w1)""",
    "float[2, 5, 4] x",
    "float[2, 5, 4] y",
    "float[4, 8] w0, float[8, 4] w1, int64[1] one = {1}",
)
CASES = (
    Case("one layer reaches the output", conv_relu(), 0),
    Case(
        "residual stream shares factors", residual_cnn(), 32, ("w0", "b0", "w1", "b1", "w2", "b2"), ("w1", "w2", "w3")
    ),
    Case("embedding and GELU", token_model(), 0),
    Case("pooling over channels", POOLED, 0),
    Case("attention", ATTENTION, 16, ("g", "e", "wv", "bv"), ("wq", "wk", "wv", "wo")),
    Case(
        "depthwise and grouped",
        cnn(
            f"""a = {CONV} (x, w0, b0)
                b = Relu (a)
                c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (b, w1)
                d = LeakyRelu (c)
                y = Conv <kernel_shape = [1, 1], group = 2> (d, w2)""",
            "float[8, 4, 1, 1] w0, float[8] b0, float[8, 1, 3, 3] w1, float[4, 4, 1, 1] w2",
        ),
        16,
        ("w0", "b0", "w1"),
        ("w1", "w2"),
    ),
    Case(
        "Concat, Split, Pad with zeros, Slice in space",
        cnn(
            f"""a = {CONV} (x, w0)
                b = {CONV} (x, w1)
                c = Concat <axis = 1> (a, b)
                d, e = Split <axis = 1, num_outputs = 2> (c)
                f = Pad (d, pads)
                g = Slice (f, starts, ends, axes)
                h = {CONV} (g, w2)
                i = Slice (e, starts, ends, axes)
                j = {CONV} (i, w3)
                k = Add (h, j)
                l = Relu (k)
                m = Mul (l, two)
                y = {CONV} (m, w4)""",
            "float[2, 4, 1, 1] w0, float[4, 4, 1, 1] w1, float[5, 5, 1, 1] w2, float[5, 3, 1, 1] w3, "
            "float[4, 5, 1, 1] w4, int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}, int64[1] starts = {0}, "
            "int64[1] ends = {6}, int64[1] axes = {2}, float two = {2.0}",
        ),
        11,
        ("w0", "w1", "w2", "w3"),
        ("w2", "w3", "w4"),
    ),
    Case(
        "Clip has levels of its own",
        cnn(
            f"a = {CONV} (x, w0)  b = Clip (a, low, high)  y = {CONV} (b, w1)",
            "float[8, 4, 1, 1] w0, float[4, 8, 1, 1] w1, float low = {0.0}, float high = {6.0}",
        ),
        0,
    ),
    Case(
        "a reader that is no layer",
        cnn(
            f"a = {CONV} (x, w0)  s = Sigmoid (a)  b = {CONV} (a, w1)  y = Add (b, s)",
            "float[4, 4, 1, 1] w0, float[4, 4, 1, 1] w1",
        ),
        0,
    ),
    Case(
        "a weight that two layers share",
        cnn(f"a = {CONV} (x, w0)  b = Relu (a)  y = {CONV} (b, w0)", "float[4, 4, 1, 1] w0"),
        0,
    ),
    Case(
        "a constant added to channels of zeros",
        cnn(
            f"""a = {CONV} (x, w0)
                p = Pad (a, pads)
                q = Add (p, c)
                b = {CONV} (x, w1)
                r = Add (q, b)
                y = {CONV} (r, w2)""",
            "float[2, 4, 1, 1] w0, float[4, 4, 1, 1] w1, float[4, 4, 1, 1] w2, float[4, 1, 1] c, "
            "int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}",
        ),
        0,
    ),
    Case(
        "Flatten and a Gemm with a constant added before it",
        graph(
            f"""a = {CONV} (x, w0)
                r = Relu (a)
                g = GlobalAveragePool (r)
                f = Flatten (g)
                h = Add (f, c)
                y = Gemm (h, w1, b1)""",
            IMAGE,
            "float[N, 3] y",
            "float[8, 4, 1, 1] w0, float[8] c, float[8, 3] w1, float[3] b1",
        ),
        8,
        ("w0", "c"),
        ("w1",),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_channels_are_found(case: Case) -> None:
    found = find_channels(prepare(case.proto).proto)
    assert found.count == case.count
    assert {r.constant for r in found.roles if not r.consumes} == set(case.divided)
    assert {r.constant for r in found.roles if r.consumes} == set(case.multiplied)


@pytest.mark.parametrize("case", [c for c in CASES if c.count], ids=lambda c: c.name)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_a_rescaled_model_computes_the_same(case: Case, seed: int) -> None:
    model = prepare(case.proto)
    channels = find_channels(model.proto)
    factors = np.exp(np.random.default_rng(seed).uniform(-3, 3, channels.count)).astype(np.float32)
    inputs = samples_for(case.proto, 2)
    before, after = (outputs_of(p, inputs) for p in (model.proto, rescaled(model, channels, factors).proto))
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-4, atol=1e-4 * np.abs(values).max())


def test_a_rescaled_model_has_other_weights_and_leaves_its_source_alone() -> None:
    model = prepare(residual_cnn())
    before = model.proto.SerializeToString()
    channels = find_channels(model.proto)
    changed = rescaled(model, channels, np.full(channels.count, 2, np.float32))
    np.testing.assert_array_equal(changed.weight(changed.layers[0]), model.weight(model.layers[0]) / 2)
    np.testing.assert_array_equal(changed.weight(changed.layers[1]), model.weight(model.layers[1]))
    assert model.proto.SerializeToString() == before


def test_factors_that_meet_in_a_tensor_are_one_group() -> None:
    groups = find_channels(prepare(residual_cnn()).proto).groups
    assert len(groups) == 32 and len(np.unique(groups)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (pack_array(np.ones(3, "<f4")), r"factors: not the 32 values"),
        (pack_array(np.zeros(32, "<f4")), r"factors: values that are not positive"),
        (pack_array(np.full(32, np.nan, "<f4")), r"factors: values that are not positive"),
        ("!", r"factors: damaged"),
    ],
    ids=["count", "zero", "nan", "garbage"],
)
def test_damaged_factors_are_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        restore_factors(prepare(residual_cnn()), text)
