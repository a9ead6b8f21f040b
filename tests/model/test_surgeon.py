"""Graphs come back from onnx-graphsurgeon with each constant where it was."""

from __future__ import annotations

import numpy as np
import onnx

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.model import Model, prepare, subgraphs
from onnxmpq.model.shell import LARGEST_KEPT
from tests.graphs import graph, outputs_of

WIDTH = 72  # a weight of more elements than stay in a structure


def branches() -> onnx.ModelProto:
    """Two branches, and a body inside, that read one weight of the graph; one has a weight of its own."""
    return graph(
        f"""y = If (flag) <
                then_branch = t () => (float[N, {WIDTH}] u) {{ u = MatMul (x, w) }},
                else_branch = e () => (float[N, {WIDTH}] v) {{
                    own = Constant <value = float[1] {{2}}> ()
                    m = Mul (x, own)
                    v = If (flag) <
                        then_branch = tt () => (float[N, {WIDTH}] a) {{ a = Relu (m) }},
                        else_branch = te () => (float[N, {WIDTH}] b) {{ b = MatMul (m, w) }}
                    > }}
            >""",
        f"bool flag, float[N, {WIDTH}] x",
        f"float[N, {WIDTH}] y",
        f"float[{WIDTH}, {WIDTH}] w",
    )


def constants(proto: onnx.ModelProto) -> list[tuple[str, int]]:
    """Names of the initializers, and the depth in which they are."""
    return [(t.name, int(g is not proto.graph)) for g in subgraphs(proto.graph) for t in g.initializer]


def rewritten(model: Model) -> onnx.ModelProto:
    return DIALECTS["onnxruntime"].rewrite(Rewrite(model, {}, {}, {}, {}))


def test_a_weight_that_bodies_read_is_in_the_file_once() -> None:
    proto = branches()
    assert WIDTH**2 > LARGEST_KEPT
    model = prepare(proto)
    for made in (model.proto, rewritten(model)):
        names = [name for name, _ in constants(made)]
        assert names.count("w") == 1 and made.graph.initializer[0].name == "w"
        for flag in (False, True):
            inputs = {"flag": np.array(flag), "x": np.ones((1, WIDTH), np.float32)}
            np.testing.assert_allclose(outputs_of(made, inputs)["y"], outputs_of(proto, inputs)["y"], rtol=1e-5)


def test_a_constant_of_a_body_stays_there() -> None:
    found = dict(constants(prepare(branches()).proto))
    assert found.pop("w") == 0
    assert list(found.values()) == [1]
