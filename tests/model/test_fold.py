"""Folding BatchNorm, Mul and Add into convolutions changes the graph, not what it computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.model import Model, prepare
from tests.graphs import graph, outputs_of, prepared, samples_for


@dataclass(frozen=True)
class Folding:
    """A graph, and the operators that must be left of it."""

    id: str
    body: str
    weights: str
    left: tuple[str, ...]
    inputs: str = "float[N, 8, 6, 6] x"
    outputs: str = "float[N, C, H, W] y"
    opset: int = 21

    @property
    def model(self) -> onnx.ModelProto:
        return positive_variance(graph(self.body, self.inputs, self.outputs, self.weights, opset=self.opset))


def positive_variance(proto: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("variance"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.abs(onnx.numpy_helper.to_array(tensor)) + 0.1, tensor.name))
    return proto


def batchnorm(channels: int, suffix: str = "") -> str:
    return ", ".join(f"float[{channels}] {n}{suffix}" for n in ("scale", "offset", "mean", "variance"))


BN = "BatchNormalization <epsilon = 0.001> (c, scale, offset, mean, variance)"
CONV = "Conv <kernel_shape = [3, 3]> "
FOLDINGS = [
    Folding(
        "Conv with bias", f"c = {CONV}(x, w, b)  y = {BN}", f"float[4,8,3,3] w, float[4] b, {batchnorm(4)}", ("Conv",)
    ),
    Folding("Conv without bias", f"c = {CONV}(x, w)  y = {BN}", f"float[4,8,3,3] w, {batchnorm(4)}", ("Conv",)),
    Folding(
        "grouped Conv",
        f"c = Conv <kernel_shape = [3, 3], group = 4> (x, w)  y = {BN}",
        f"float[12,2,3,3] w, {batchnorm(12)}",
        ("Conv",),
    ),
    Folding(
        "depthwise Conv",
        f"c = Conv <kernel_shape = [3, 3], group = 8> (x, w)  y = {BN}",
        f"float[8,1,3,3] w, {batchnorm(8)}",
        ("Conv",),
    ),
    Folding(
        "ConvTranspose",
        f"c = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, w, b)  y = {BN}",
        f"float[8,4,2,2] w, float[4] b, {batchnorm(4)}",
        ("ConvTranspose",),
    ),
    Folding(
        "grouped ConvTranspose",
        f"c = ConvTranspose <kernel_shape = [2, 2], group = 2> (x, w)  y = {BN}",
        f"float[8,3,2,2] w, {batchnorm(6)}",
        ("ConvTranspose",),
    ),
    Folding(
        "one-dimensional Conv",
        f"c = Conv <kernel_shape = [3]> (x, w)  y = {BN}",
        f"float[4,8,3] w, {batchnorm(4)}",
        ("Conv",),
        inputs="float[N, 8, 9] x",
        outputs="float[N, C, L] y",
    ),
    Folding(
        "Mul and Add per channel",
        f"c = {CONV}(x, w)  d = Mul (c, m)  y = Add (a, d)",
        "float[4,8,3,3] w, float[1,4,1,1] m, float[4,1,1] a",
        ("Conv",),
    ),
    Folding(
        "Mul by a scalar", f"c = {CONV}(x, w, b)  y = Mul (c, m)", "float[4,8,3,3] w, float[4] b, float[1] m", ("Conv",)
    ),
    Folding(
        "BatchNorm after Mul",
        f"d = {CONV}(x, w)  c = Mul (d, m)  y = {BN}",
        f"float[4,8,3,3] w, float[1,4,1,1] m, {batchnorm(4)}",
        ("Conv",),
    ),
    Folding(
        "a row vector is not per channel",
        f"c = {CONV}(x, w)  y = Mul (c, m)",
        "float[4,8,3,3] w, float[4] m",
        ("Conv", "Mul"),
    ),
    Folding(
        "a second reader keeps the raw result",
        f"c = {CONV}(x, w)  n = {BN}  y = Add (n, c)",
        f"float[4,8,3,3] w, {batchnorm(4)}",
        ("Conv", "BatchNormalization", "Add"),
    ),
    Folding(
        "one weight shared by two convolutions",
        f"c = {CONV}(x, w)  n = {BN}  d = {CONV}(x, w)  y = Add (n, d)",
        f"float[4,8,3,3] w, {batchnorm(4)}",
        ("Conv", "Conv", "Add"),
    ),
    Folding(
        "parameters behind Identity",
        f"w2 = Identity (w)  b2 = Identity (b)  c = {CONV}(x, w2, b2)  n = {BN}  m2 = Identity (n)  d = Relu (m2)"
        "  y = Identity (d)",
        f"float[4,8,3,3] w, float[4] b, {batchnorm(4)}",
        ("Conv", "Relu"),
    ),
    Folding(
        "constant expressions",
        f"one = Constant <value_float = 1.0> ()  w1 = Add (w, one)  w2 = Mul (w1, w1)  y = {CONV}(x, w2)",
        "float[4,8,3,3] w",
        ("Conv",),
    ),
    Folding(
        "an output of the graph is kept",
        f"c = {CONV}(x, w)  y = {BN}",
        f"float[4,8,3,3] w, {batchnorm(4)}",
        ("Conv", "BatchNormalization"),
        outputs="float[N, C, H, W] y, float[N, C, H, W] c",
    ),
    Folding(
        "Identity of an output",
        f"c = {CONV}(x, w)  d = Relu (c)  y = Identity (d)",
        "float[4,8,3,3] w",
        ("Conv", "Relu", "Identity"),
        outputs="float[N, C, H, W] y, float[N, C, H, W] d",
    ),
    Folding("opset 9", f"c = {CONV}(x, w)  y = {BN}", f"float[4,8,3,3] w, {batchnorm(4)}", ("Conv",), opset=9),
]


def operators(model: Model) -> tuple[str, ...]:
    return tuple(n.op_type for n in model.proto.graph.node)


@pytest.mark.parametrize("case", FOLDINGS, ids=lambda case: case.id)
def test_folding_keeps_what_the_graph_computes(case: Folding) -> None:
    proto = case.model
    before = proto.SerializeToString(deterministic=True)
    model = prepared(proto)  # compares the outputs
    assert operators(model) == case.left
    assert proto.SerializeToString(deterministic=True) == before, "the given model was changed"
    onnx.checker.check_model(model.proto)


def test_original_names_are_kept() -> None:
    proto = FOLDINGS[0].model
    proto.graph.node[0].name, proto.graph.node[1].name = "stem", "norm"
    model = prepare(proto)
    assert model.origin == {"stem": ("stem", "norm")}


@given(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 1000))
def test_any_shape_of_grouped_convolution(groups: int, width: int, transposed: bool, seed: int) -> None:
    inside, outside = 2 * groups, width * groups
    op, shape = ("ConvTranspose", (inside, width)) if transposed else ("Conv", (outside, 2))
    proto = positive_variance(
        graph(
            f"c = {op} <kernel_shape = [2, 2], group = {groups}> (x, w)  y = {BN}",
            f"float[N, {inside}, 4, 4] x",
            "float[N, C, H, W] y",
            f"float[{shape[0]}, {shape[1]}, 2, 2] w, {batchnorm(outside)}",
            seed=seed,
        )
    )
    assert operators(prepared(proto)) == (op,)


def test_subgraphs_see_the_tensors_they_capture() -> None:
    """An If whose branches read a convolution's raw result: nothing may be folded into it, and it still runs."""
    proto = graph(
        f"""c = {CONV}(x, w)
            d = Identity (c)
            n = {BN}
            y = If (flag) <
                then_branch = t () => (float[N, 4, 4, 4] u) {{ u = Relu (d) }},
                else_branch = e () => (float[N, 4, 4, 4] v) {{ v = Add (n, d) }}
            >""",
        "bool flag, float[N, 8, 6, 6] x",
        "float[N, 4, 4, 4] y",
        f"float[4,8,3,3] w, {batchnorm(4)}",
    )
    positive_variance(proto)
    model = prepare(proto)
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)}
    for flag in (False, True):
        given = {**inputs, "flag": np.array(flag)}
        np.testing.assert_allclose(outputs_of(model.proto, given)["y"], outputs_of(proto, given)["y"], atol=1e-5)
    assert [r.kind.value for r in model.regions if r.op_type == "If"] == ["float"]


def test_training_mode_batchnorm_is_left_alone() -> None:
    proto = graph(
        f"c = {CONV}(x, w)  y, m, v = BatchNormalization <training_mode = 1> (c, scale, offset, mean, variance)",
        "float[N, 8, 6, 6] x",
        "float[N, C, H, W] y",
        f"float[4,8,3,3] w, {batchnorm(4)}",
    )
    assert "BatchNormalization" in operators(prepare(proto))


def test_samples_for_reads_the_declared_shapes() -> None:
    assert samples_for(FOLDINGS[0].model, 3)["x"].shape == (3, 8, 6, 6)
