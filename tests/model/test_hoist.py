"""Weights of layers in bodies of If, Loop and Scan: found wherever they are stored, handed to the bodies by the graph
around, and put back, without a change of what is computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import numpy_helper

from onnxmpq.model import Model, Step, prepare, sink, subgraphs
from onnxmpq.model.hoist import hoist
from onnxmpq.model.load import load
from tests.bodies import Nested, nested
from tests.graphs import graph, outputs_of


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(proto.SerializeToString())


def stored(proto: onnx.ModelProto) -> list[bytes]:
    """All float32 matrices of a model, each as often as it is stored."""
    every = [t for g in subgraphs(proto.graph) for t in g.initializer]
    every += [a.t for g in subgraphs(proto.graph) for n in g.node for a in n.attribute if a.HasField("t")]
    arrays = [numpy_helper.to_array(t) for t in every if len(t.dims) == 2]
    return sorted(a.tobytes() for a in arrays)


def read_inside(proto: onnx.ModelProto) -> int:
    """Number of distinct weights that MatMul nodes in bodies read."""
    inner = [g for g in subgraphs(proto.graph) if g is not proto.graph]
    return len({n.input[1] for g in inner for n in g.node if n.op_type == "MatMul"})


def body_weights(model: Model) -> list[str]:
    return [r.name for r in model.layers if r.op_type == "Identity"]


@given(nested())
@settings(max_examples=40, deadline=None)
def test_out_of_the_bodies_and_back(made: Nested) -> None:
    tidied = load(made.proto).store.assembled()
    hoisted, readers = hoist(copy_of(tidied))
    assert len(readers) == read_inside(tidied)
    sunk = copy_of(hoisted)
    sink(sunk)
    assert stored(hoisted) == stored(sunk) == stored(tidied), "every weight once, as before"
    assert [n.op_type for n in sunk.graph.node] == [n.op_type for n in tidied.graph.node]
    for proto in (hoisted, sunk):
        onnx.checker.check_model(proto)
    for flag in (False, True):
        before = outputs_of(made.proto, made.inputs(flag))["y"]
        for proto in (hoisted, sunk):
            np.testing.assert_allclose(outputs_of(proto, made.inputs(flag))["y"], before, atol=1e-5)


@given(nested())
@settings(max_examples=20, deadline=None)
def test_each_weight_is_a_layer_of_its_own(made: Nested) -> None:
    model = prepare(made.proto)
    assert len(body_weights(model)) == read_inside(model.proto)
    for flag in (False, True):
        inputs = made.inputs(flag)
        np.testing.assert_allclose(
            outputs_of(model.proto, inputs)["y"], outputs_of(made.proto, inputs)["y"], rtol=1e-3, atol=1e-5
        )


BODY = """{before}
   y = If (flag) <
       then_branch = t () => (float[N, b] u) {{ {then} }},
       else_branch = e () => (float[N, b] v) {{ v = Relu (x) }}
   >"""


def branch(then: str, weights: str, before: str = "") -> onnx.ModelProto:
    return graph(BODY.format(then=then, before=before), "float[N, 24] x, bool flag", "float[N, b] y", weights)


@pytest.mark.parametrize(
    ("then", "weights", "shape", "channels"),
    [
        ("u = MatMul (x, w)", "float[24, 24] w", (24, 24), 24),
        ("u = Gemm <transB = 1> (x, w)", "float[24, 24] w", (24, 24), 24),
        ("u = Gemm <alpha = 0.5> (x, w)", "float[24, 24] w", (24, 24), 24),
        (
            "i = Cast <to = 7> (x) s = Squeeze (i, at) u = Gather (w, s)",
            "float[7, 24] w, int64[1] at = {0}",
            (7, 24),
            7,
        ),
        (
            "i = Unsqueeze (x, at) c = Conv <kernel_shape = [5], pads = [2, 2]> (i, w) u = Squeeze (c, at)",
            "float[1, 1, 5] w, int64[1] at = {1}",
            (1, 1, 5),
            1,
        ),
        (
            "i = Unsqueeze (x, at) o, h = GRU <hidden_size = 24> (i, w, r) u = Squeeze (h, zero)",
            "float[1, 72, 24] w, float[1, 72, 24] r, int64[1] at = {1}, int64[1] zero = {0}",
            (1, 72, 24),
            72,
        ),
    ],
    ids=["MatMul", "Gemm, transposed", "Gemm with a factor", "Gather", "Conv", "GRU"],
)
def test_views_of_all_layers(then: str, weights: str, shape: tuple[int, ...], channels: int) -> None:
    model = prepare(branch(then, weights))
    places = [place for r in model.layers for place in r.params.weights]
    assert places and all((p.shape, p.out_channels) == (shape, channels) for p in places)
    assert {n for r in model.layers for n in model.origin[r.name]} == {
        n.name
        for g in subgraphs(model.structure.graph)
        for n in g.node
        if set(n.input) & {r.name for r in model.layers}
    }


@pytest.mark.parametrize(
    ("then", "weights"),
    [
        ("u = Add (x, w)", "float[24] w"),
        ("k = Constant <value = float[1] {2}> () u = Add (x, k)", ""),
        ("u = MatMul (x, x2)", ""),
    ],
    ids=["no layer", "a Constant of no layer", "two activations"],
)
def test_what_no_layer_reads_stays_where_it_is(then: str, weights: str) -> None:
    proto = graph(
        BODY.format(then=then, before=""), "float[N, 24] x, float[24, 24] x2, bool flag", "float[N, b] y", weights
    )
    tidied = load(proto).store.assembled()
    assert hoist(tidied) == (tidied, {})
    assert not body_weights(prepare(proto))


def test_a_weight_that_the_graph_itself_reads_too_is_stored_once() -> None:
    model = prepare(branch("u = MatMul (x, w)", "float[24, 24] w", before="h = MatMul (x, w)  o = Relu (h)"))
    [name] = body_weights(model)
    assert model.region(name).params.weight == "w"
    assert [t.name for t in model.proto.graph.initializer] == ["w"]


def test_a_constant_that_the_user_hands_on_stays() -> None:
    """An Identity that another node reads too is no hand-over."""
    proto = branch("u = MatMul (x, k)", "float[24, 24] w", before="k = Identity (w)  o = Mul (k, k)")
    proto.graph.output.append(onnx.ValueInfoProto(name="o", type=proto.graph.output[0].type))
    before = copy_of(proto)
    sink(proto)
    assert proto == before


def test_hoisting_can_be_left_out() -> None:
    model = prepare(branch("u = MatMul (x, w)", "float[24, 24] w"), left_out=[Step.HOIST_WEIGHTS])
    assert not model.layers and model.left_out == (Step.HOIST_WEIGHTS,)


def test_functions_in_bodies_are_inlined_and_their_weights_found() -> None:
    """A local function that calls another one, in a branch inside a branch."""
    text = """<ir_version: 10, opset_import: ["" : 21, "f" : 1]>
        g (float[N, 24] x, bool flag) => (float[N, b] y) <float[24, 24] w> {
            y = If (flag) <
                then_branch = t () => (float[N, b] u) {
                    u = If (flag) <
                        then_branch = tt () => (float[N, b] p) { p = f.outer (x, w) },
                        else_branch = te () => (float[N, b] q) { q = Neg (x) }> },
                else_branch = e () => (float[N, b] v) { v = f.inner (x, w) }>
        }
        <domain: "f", opset_import: ["" : 21, "f" : 1]> outer (a, k) => (o) { i = f.inner (a, k)  o = Tanh (i) }
        <domain: "f", opset_import: ["" : 21]> inner (a, k) => (o) { m = MatMul (a, k)  o = Relu (m) }"""
    proto = onnx.parser.parse_model(text)
    del proto.graph.value_info[:]
    values = np.random.default_rng(0).standard_normal((24, 24)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    model = prepare(proto)
    assert not model.structure.functions and len(body_weights(model)) == 1
    for flag in (False, True):
        inputs = {"x": np.ones((2, 24), np.float32), "flag": np.array(flag)}
        np.testing.assert_allclose(outputs_of(model.proto, inputs)["y"], outputs_of(proto, inputs)["y"], rtol=1e-5)
