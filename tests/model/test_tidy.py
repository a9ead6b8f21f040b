"""Graphs are spelled as the package expects them, bodies of If, Loop and Scan included, and compute what they did."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxmpq.model import prepare, read_by
from onnxmpq.model.tidy import defined_in, name_nodes, sort_nodes, subgraphs, tidy
from tests.graphs import graph, outputs_of

X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
ROW = "float[2, 4]"


@st.composite
def bodies(draw: st.DrawFn, depth: int = 0) -> str:
    """Nodes of a body that makes `y` of the outer `x`, and bodies inside. Branches use the same names: onnxruntime
    allows it for those beside each other, not for one inside another."""
    inner, name = draw(st.sampled_from(["Relu", "Neg", "Tanh"])), f"a{depth}"
    if depth == 2 or draw(st.booleans()):
        return f"{name} = {inner} (x) y{depth} = Add ({name}, w)"
    yes, no = draw(bodies(depth + 1)), draw(bodies(depth + 1))
    return f"""{name} = {inner} (x)
        c{depth} = If (flag) <
            then_branch = t () => ({ROW} y{depth + 1}) {{ {yes} }},
            else_branch = e () => ({ROW} y{depth + 1}) {{ {no} }}
        >
        y{depth} = Add ({name}, c{depth})"""


@given(bodies(), st.booleans())
@settings(max_examples=40)
def test_values_of_nested_bodies_get_names_of_their_own(body: str, flag: bool) -> None:
    proto = graph(body, f"bool flag, {ROW} x", f"{ROW} y0", f"{ROW} w")
    inputs = {"flag": np.array(flag), "x": X}
    before = outputs_of(proto, inputs)["y0"]
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    tidy(changed.graph)
    names = Counter(t for g in subgraphs(changed.graph) for t in defined_in(g))
    nodes = Counter(n.name for g in subgraphs(changed.graph) for n in g.node)
    assert set(names.values()) == set(nodes.values()) == {1} and all(nodes)
    np.testing.assert_array_equal(outputs_of(changed, inputs)["y0"], before)
    np.testing.assert_allclose(outputs_of(prepare(proto).proto, inputs)["y0"], before, atol=1e-6)


def nested() -> onnx.ModelProto:
    return graph(
        f"""h = Relu (x)
            y = If (flag) <
                then_branch = t () => ({ROW} u) {{ a = Neg (h)
                    u = If (flag) <
                        then_branch = tt () => ({ROW} v) {{ v = Add (a, w) }},
                        else_branch = te () => ({ROW} v) {{ v = Mul (h, w) }}
                    > }},
                else_branch = e () => ({ROW} u) {{ a = Tanh (w) u = Add (a, a) }}
            >""",
        f"bool flag, {ROW} x",
        f"{ROW} y",
        f"{ROW} w",
    )


def test_a_node_reads_only_outer_values_through_its_bodies() -> None:
    assert set(read_by(nested().graph.node[1])) == {"flag", "h", "w"}


def test_names_of_the_graph_itself_are_kept() -> None:
    proto = nested()
    before = defined_in(proto.graph)
    tidy(proto.graph)
    assert defined_in(proto.graph) == before


@given(st.permutations(range(4)))
def test_nodes_come_after_those_they_read(order: list[int]) -> None:
    proto = graph("a = Relu (x)  b = Neg (x)  c = Add (a, b)  y = Mul (c, a)", f"{ROW} x", f"{ROW} y")
    expected = outputs_of(proto, {"x": X})["y"]
    nodes = [onnx.NodeProto.FromString(proto.graph.node[i].SerializeToString()) for i in order]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    sort_nodes(proto.graph)
    onnx.checker.check_model(proto)
    np.testing.assert_array_equal(outputs_of(proto, {"x": X})["y"], expected)


def test_a_graph_in_order_stays_as_it_is() -> None:
    proto = nested()
    before = proto.SerializeToString()
    sort_nodes(proto.graph)
    assert proto.SerializeToString() == before


def test_inputs_that_are_left_out_at_the_end_are_not_spelled() -> None:
    proto = graph("c = Clip (x, low, e1)  y = Relu (c)", f"{ROW} x", f"{ROW} y", "float low")
    proto.graph.node[0].input[2] = ""
    tidy(proto.graph)
    assert list(proto.graph.node[0].input) == ["x", "low"]


def test_many_nodes_of_one_name_are_counted_on() -> None:
    proto = graph("".join(f"t{i} = Relu (x) " for i in range(50)) + "y = Neg (x)", f"{ROW} x", f"{ROW} y")
    for node in proto.graph.node:
        node.name = "n"
    name_nodes(proto.graph)
    assert [n.name for n in proto.graph.node] == ["n", *(f"n_{i}" for i in range(1, 51))]


@pytest.mark.parametrize("shape", [[7, 7], [2, 4, 9], [3]], ids=str)
def test_stale_shapes_of_computed_tensors_are_not_believed(shape: list[int]) -> None:
    proto = graph(
        "h = MatMul (x, w)  g = Relu (h)  y = MatMul (g, v)", f"{ROW} x", f"{ROW} y", "float[4,4] w, float[4,4] v"
    )
    for name in "hg":
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    model = prepare(proto)
    assert [r.params.macs for r in model.layers] == [16, 16]
    kept = model.structure.graph.output[0].type
    assert kept == proto.graph.output[0].type, "declared ends are the user's"
