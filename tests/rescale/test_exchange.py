"""Models with channels in another order compute what they did, and what is tied to its place stays there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import PlanError
from onnxmpq.model import prepare
from onnxmpq.rescale import Channels, find_exchangeable, reordered, restore_order
from onnxmpq.weights import pack_array
from tests.graphs import conv_relu, graph, outputs_of, residual_cnn, samples_for, token_model
from tests.rescale.test_channels import ATTENTION, CONV, POOLED, cnn

WEIGHTS = "float[8, 4, 1, 1] w0, float[8] b0, float[4, 8, 1, 1] w1"


@dataclass(frozen=True)
class Case:
    """sizes: of sets of channels that can change places with each other, ascending."""

    name: str
    proto: onnx.ModelProto
    sizes: tuple[int, ...] = ()


def between(body: str, constants: str = "") -> onnx.ModelProto:
    """Two Conv 1x1 with nodes between, from `a` with 8 channels to `b`."""
    return cnn(f"a = {CONV} (x, w0, b0) {body} y = {CONV} (b, w1)", f"{WEIGHTS}, {constants}" if constants else WEIGHTS)


CASES = (
    Case("one layer reaches the output", conv_relu()),
    Case("residual stream and its branch", residual_cnn(), (16, 16)),
    Case("embedding and GELU", token_model()),
    Case("values within a head", ATTENTION, (4, 4)),
    Case("Clip", between("b = Clip (a, low, high)", "float low = {-0.2}, float high = {0.3}"), (8,)),
    Case("SiLU", between("s = Sigmoid (a) b = Mul (a, s)"), (8,)),
    Case(
        "GELU by hand",
        between(
            "d = Div (a, root) e = Erf (d) f = Add (e, one) g = Mul (a, f) b = Mul (g, half)",
            "float root = {1.4142}, float one = {1}, float half = {0.5}",
        ),
        (8,),
    ),
    Case("squeeze and excite", between("g = GlobalAveragePool (a) s = Sigmoid (g) b = Mul (a, s)"), (8,)),
    Case("a constant to subtract from", between("b = Sub (one, a)", "float one = {1}"), (8,)),
    Case("a factor per channel", between("s = Sigmoid (a) b = Mul (s, f)", "float[8, 1, 1] f")),
    Case("an addend per channel", between("s = Sigmoid (a) b = Add (s, f)", "float[8, 1, 1] f"), (8,)),
    Case("a factor per position", between("b = Mul (a, f)", "float[1, 6] f"), (8,)),
    Case(
        "LayerNormalization",
        graph(
            "a = MatMul (x, w0) n = LayerNormalization (a, g, e) y = MatMul (n, w1)",
            "float[2, 5, 4] x",
            "float[2, 5, 4] y",
            "float[4, 8] w0, float[8] g, float[8] e, float[8, 4] w1",
        ),
    ),
    Case(
        "grouped, then depthwise",
        between(
            "c = Conv <kernel_shape = [1, 1], group = 2> (a, w2, b2) r = Relu (c)"
            " b = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (r, w3, b3)",
            "float[8, 4, 1, 1] w2, float[8] b2, float[8, 1, 3, 3] w3, float[8] b3",
        ),
        (4, 4, 4, 4),
    ),
    Case(
        "depthwise on channels of zeros",
        cnn(
            f"""a = {CONV} (x, w0)
                p = Pad (a, pads)
                d = Conv <kernel_shape = [1, 1], group = 8> (p, w2, b2)
                y = {CONV} (d, w1)""",
            "float[6, 4, 1, 1] w0, float[8, 1, 1, 1] w2, float[8] b2, float[4, 8, 1, 1] w1, "
            "int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}",
        ),
        (1,) * 14,
    ),
    Case(
        "depthwise on an input",
        cnn(
            f"d = Conv <kernel_shape = [1, 1], group = 4> (x, w0, b0) y = {CONV} (d, w1)",
            "float[8, 1, 1, 1] w0, float[8] b0, float[4, 8, 1, 1] w1",
        ),
        (2, 2, 2, 2),
    ),
    Case(
        "Concat and Split at other places",
        cnn(
            f"""a = {CONV} (x, w0)
                b = {CONV} (x, w1)
                c = Concat <axis = 1> (a, b)
                d, e = Split <axis = 1, num_outputs = 2> (c)
                f = {CONV} (d, w2)
                g = {CONV} (e, w3)
                y = Add (f, g)""",
            "float[3, 4, 1, 1] w0, float[5, 4, 1, 1] w1, float[4, 4, 1, 1] w2, float[4, 4, 1, 1] w3",
        ),
        (1, 3, 4),
    ),
    Case(
        "the same channels twice",
        cnn(
            f"a = {CONV} (x, w0) c = Concat <axis = 1> (a, a) y = {CONV} (c, w1)",
            "float[4, 4, 1, 1] w0, float[4, 8, 1, 1] w1",
        ),
        (1, 1, 1, 1),
    ),
    Case(
        "zeros beside other channels",
        cnn(
            f"""a = {CONV} (x, w0)
                p = Pad (a, pads)
                b = {CONV} (x, w1)
                s = Add (p, b)
                y = {CONV} (s, w2)""",
            "float[2, 4, 1, 1] w0, float[4, 4, 1, 1] w1, float[4, 4, 1, 1] w2, "
            "int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}",
        ),
        (2, 2),
    ),
    Case(
        "zeros that become something else",
        cnn(
            f"a = {CONV} (x, w0) p = Pad (a, pads) s = Sigmoid (p) y = {CONV} (s, w1)",
            "float[2, 4, 1, 1] w0, float[4, 4, 1, 1] w1, int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}",
        ),
    ),
    Case(
        "where the largest values are",
        graph(
            f"a = {CONV} (x, w0) m, i = MaxPool <kernel_shape = [2, 2]> (a) y = {CONV} (m, w1) z = Cast <to = 1> (i)",
            "float[N, 4, 6, 6] x",
            "float[N, 4, 5, 5] y, float[N, 8, 5, 5] z",
            "float[8, 4, 1, 1] w0, float[4, 8, 1, 1] w1",
        ),
    ),
    Case("pooling over channels", POOLED),
)


def shuffled(channels: Channels, seed: int) -> np.ndarray:
    """A random order within channels that are alike."""
    generator, order = np.random.default_rng(seed), np.arange(channels.count)
    for number in np.unique(channels.alike):
        members = np.flatnonzero(channels.alike == number)
        order[members] = generator.permutation(members)
    return order


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_channels_that_can_change_places_are_found(case: Case) -> None:
    found = find_exchangeable(prepare(case.proto).proto)
    assert tuple(sorted(np.bincount(found.alike).tolist())) == case.sizes


@pytest.mark.parametrize("case", [c for c in CASES if c.sizes], ids=lambda c: c.name)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_a_model_in_another_order_computes_the_same(case: Case, seed: int) -> None:
    model = prepare(case.proto)
    channels = find_exchangeable(model.proto)
    inputs = samples_for(case.proto, 2)
    before, after = (
        outputs_of(p, inputs) for p in (model.proto, reordered(model, channels, shuffled(channels, seed)).proto)
    )
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max())


def test_channels_are_moved_and_back_again() -> None:
    model = prepare(residual_cnn())
    channels = find_exchangeable(model.proto)
    order = shuffled(channels, 1)
    moved = reordered(model, channels, order)
    assert not np.array_equal(moved.weight(moved.layers[1]), model.weight(model.layers[1]))
    back = reordered(moved, channels, np.argsort(order))
    assert back.proto.SerializeToString() == model.proto.SerializeToString()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (pack_array(np.arange(3, dtype="<i4")), r"order: not the 32 values"),
        (pack_array(np.zeros(32, "<i4")), r"order: channels that cannot change places"),
        (pack_array(np.arange(32, dtype="<i4")[::-1]), r"order: channels that cannot change places"),
        (pack_array(np.arange(1, 33, dtype="<i4")), r"order: channels that cannot change places"),
        ("!", r"order: damaged"),
    ],
    ids=["count", "all the same", "from one tensor to another", "beyond the last", "garbage"],
)
def test_damaged_orders_are_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        restore_order(prepare(residual_cnn()), text)
