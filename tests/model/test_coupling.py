"""Coupled layers: q, k and v of an attention, gate and up of an MLP, experts; not whatever reads the same tensor."""

from __future__ import annotations

import onnx
import pytest

from onnxmpq.model import coupled_layers
from tests.graphs import graph, prepared

SQUARE = "float[8, 8]"


def groups(proto: onnx.ModelProto) -> set[frozenset[str]]:
    """By the tensors that layers write."""
    model = prepared(proto)
    return {frozenset(model.region(name).outputs[0] for name in group) for group in coupled_layers(model)}


def of(body: str, weights: str) -> onnx.ModelProto:
    return graph(body, "float[N, 4, 8] x", "float[N, 4, 8] y", ", ".join(f"{SQUARE} {w}" for w in weights.split()))


ATTENTION = (
    "q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)  t = Transpose <perm = [0, 2, 1]> (k) "
    "s = MatMul (q, t)  p = Softmax (s)  a = MatMul (p, v)  o = MatMul (a, wo)  r = Add (x, o) "
)


def test_query_key_and_value_are_a_group() -> None:
    assert groups(of(f"{ATTENTION} y = Tanh (r)", "wq wk wv wo")) == {frozenset("qkv")}


def test_gate_and_up_are_a_group() -> None:
    body = "g = MatMul (x, wg)  u = MatMul (x, wu)  s = Sigmoid (g)  m = Mul (s, u)  y = MatMul (m, wd)"
    assert groups(of(body, "wg wu wd")) == {frozenset("gu")}


def test_attention_and_mlp_side_by_side_are_no_group() -> None:
    """Their results meet behind another layer each, and their second layers differ from each other."""
    body = f"{ATTENTION} f = MatMul (x, wf)  h = Relu (f)  d = MatMul (h, wd)  y = Add (r, d)"
    assert groups(of(body, "wq wk wv wo wf wd")) == {frozenset("qkv")}


def test_one_reader_or_another_input_is_no_group() -> None:
    assert groups(of("a = MatMul (x, wa)  b = Tanh (a)  c = MatMul (b, wb)  y = Add (a, c)", "wa wb")) == set()


@pytest.mark.parametrize("gated", [False, True])
def test_experts_that_read_one_tensor_are_a_group_with_their_second_layers_as_another(gated: bool) -> None:
    body, weights, names = "", [], []
    for n in range(3):
        names += [f"a{n}"] + [f"u{n}"] * gated
        weights += [f"wa{n}", f"wd{n}"] + [f"wu{n}"] * gated
        body += f"a{n} = MatMul (x, wa{n})  h{n} = Tanh (a{n}) "
        body += f"u{n} = MatMul (x, wu{n})  m{n} = Mul (h{n}, u{n}) " if gated else f"m{n} = Relu (h{n}) "
        body += f"d{n} = MatMul (m{n}, wd{n}) "
    found = groups(of(f"{body} s = Add (d0, d1)  y = Add (s, d2)", " ".join(weights)))
    assert found == {frozenset(names), frozenset({"d0", "d1", "d2"})}
