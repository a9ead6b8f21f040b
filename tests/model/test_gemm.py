"""Every form of Gemm becomes a layer that computes the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxmpq.model import Step, prepare
from tests.graphs import graph, outputs_of

ROWS, INNER, COLUMNS = 3, 5, 4
SHAPES = (None, (), (1,), (COLUMNS,), (1, 1), (1, COLUMNS), (ROWS, 1), (ROWS, COLUMNS))


@dataclass(frozen=True)
class Form:
    """A Gemm of [3, 5] and [5, 4]. bias: shape of C; None where there is none."""

    turned_a: bool
    turned_b: bool
    alpha: float
    beta: float
    bias: tuple[int, ...] | None
    computed: bool

    @property
    def proto(self) -> onnx.ModelProto:
        a, b = (INNER, ROWS) if self.turned_a else (ROWS, INNER), (INNER, COLUMNS)
        b = b[::-1] if self.turned_b else b
        c = "" if self.bias is None else f", float[{','.join(map(str, self.bias))}] c"
        attributes = f"transA = {int(self.turned_a)}, transB = {int(self.turned_b)}"
        attributes += f", alpha = {self.alpha:.3f}, beta = {self.beta:.3f}"
        return graph(
            f"y = Gemm <{attributes}> (a, b{', c' if c else ''})",
            f"float[{a[0]}, {a[1]}] a{c if self.computed else ''}",
            f"float[{ROWS}, {COLUMNS}] y",
            f"float[{b[0]}, {b[1]}] b{'' if self.computed else c}",
        )


factors = st.sampled_from([0.0, 0.25, 1.0, -3.0])
forms = st.builds(Form, st.booleans(), st.booleans(), factors, factors, st.sampled_from(SHAPES), st.booleans())


@given(forms)
def test_every_form_is_a_layer_that_computes_the_same(form: Form) -> None:
    assume(form.bias != () or not form.computed)  # ONNX text has no inputs of rank 0
    proto = form.proto
    model = prepare(proto)
    [region] = model.layers
    assert region.op_type == "Gemm" and not region.params.storage_only
    assert {n for names in model.origin.values() for n in names} == {"Gemm_0"}
    generator = np.random.default_rng(0)
    given_values = {
        i.name: generator.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in proto.graph.input
    }
    expected, found = (outputs_of(p, given_values)["y"] for p in (proto, model.proto))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_plain_gemm_keeps_its_constants() -> None:
    model = prepare(Form(False, True, 1.0, 1.0, (COLUMNS,), computed=False).proto)
    [node] = model.structure.graph.node
    assert list(node.input) == ["a", "b", "c"]


def test_gemms_that_share_a_weight_go_on_sharing_it() -> None:
    proto = graph(
        "p = Gemm <alpha = 2.0> (x, w)  q = Tanh (p)  y = Gemm <alpha = 2.0> (q, w)",
        "float[N, 8] x",
        "float[N, 8] y",
        "float[8, 8] w",
    )
    model = prepare(proto)
    assert len(model.store) == 1
    assert len({place.tensor for _, place in model.weights.values()}) == 1


def test_a_transpose_before_it_is_undone() -> None:
    proto = graph(
        "t = Transpose <perm = [1, 0]> (x)  y = Gemm <transA = 1> (t, w)",
        "float[N, 8] x",
        "float[N, 4] y",
        "float[8, 4] w",
    )
    assert [n.op_type for n in prepare(proto).structure.graph.node] == ["Gemm"]


@pytest.mark.parametrize("dtype", ["double", "float16"])
def test_other_types_are_left_alone(dtype: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g ({dtype}[2, 3] x) => ({dtype}[2, 3] y)
        <{dtype}[3, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}> {{ y = Gemm <alpha = 2.0> (x, w) }}"""
    [node] = prepare(onnx.parser.parse_model(text), left_out=(Step.WIDEN,)).structure.graph.node
    assert "alpha" in [a.name for a in node.attribute]
