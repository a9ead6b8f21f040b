"""Einsum with a constant becomes a MatMul that computes the same; other equations stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.model import Step, prepare
from tests.graphs import graph, outputs_of

SIZES = {"b": 2, "s": 3, "k": 5, "h": 2, "d": 4, "n": 6}


def proto_of(equation: str, rank: int = 0, swapped: bool = False) -> onnx.ModelProto:
    """rank: of x, where the equation does not tell. swapped: the constant comes first."""
    terms = equation.split("->", maxsplit=1)[0].replace(" ", "").replace("...", "").split(",")
    x, w = terms[::-1] if swapped else terms
    shape = [*[2] * (rank - len(x)), *(SIZES[c] for c in x)] if rank else [SIZES[c] for c in x]
    inputs = f"float[{', '.join(map(str, shape))}] x"
    order = "w, x" if swapped else "x, w"
    proto = graph(
        f'e = Einsum <equation = "{equation}"> ({order})  y = Neg (e)',
        inputs,
        "float[a] y",
        f"float[{', '.join(str(SIZES[c]) for c in w)}] w",
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


LINEAR = {
    "bsk,kn->bsn": 0,
    "bsk,nk->bsn": 0,
    "k,kn->n": 0,
    "sk , kn -> sn": 0,
    "...k,kn->...n": 4,
    "...k,nk->...n": 2,
    "bsk,khd->bshd": 0,
    "bshd,hdk->bsk": 0,
    "bshd,khd->bsk": 0,
    "bsk,hkd->bshd": 0,
}


@pytest.mark.parametrize("equation", LINEAR)
def test_linear_layers_are_layers(equation: str) -> None:
    proto = proto_of(equation, LINEAR[equation])
    model = prepare(proto)
    [layer] = model.layers
    assert layer.op_type == "MatMul" and not any(n.op_type == "Einsum" for n in model.structure.graph.node)
    assert model.origin[layer.nodes[0]] == ("Einsum_0",)
    assert_same(proto, model.proto)


def test_the_constant_may_come_first() -> None:
    proto = proto_of("kn,bsk->bsn", swapped=True)
    model = prepare(proto)
    assert len(model.layers) == 1
    assert_same(proto, model.proto)


@pytest.mark.parametrize(
    "equation",
    ["bsk,kn->bns", "bsk,kn->bs", "bsk,sn->bsn", "bsk,sk->bsk", "bsk,kn->bskn", "bks,kn->bsn", "...k,khd->...hd"],
)
def test_other_equations_stay(equation: str) -> None:
    proto = proto_of(equation, 3 if "..." in equation else 0)
    model = prepare(proto)
    assert not model.layers and any(n.op_type == "Einsum" for n in model.structure.graph.node)
    assert_same(proto, model.proto)


def test_samples_without_elements_keep_their_shape() -> None:
    proto = graph(
        'y = Einsum <equation = "bsk,khd->bshd"> (x, w)', "float[N, s, 5] x", "float[N, s, 2, 4] y", "float[5, 2, 4] w"
    )
    given = {"x": np.zeros((2, 0, 5), np.float32)}
    assert outputs_of(prepare(proto).proto, given)["y"].shape == outputs_of(proto, given)["y"].shape == (2, 0, 2, 4)


def test_the_step_can_be_left_out() -> None:
    assert not prepare(proto_of("bsk,kn->bsn"), left_out=[Step.SIMPLIFY_EINSUMS]).layers


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    shape = [d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim]
    given = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    one, two = (outputs_of(p, given)["y"] for p in (before, after))
    assert one.shape == two.shape
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
