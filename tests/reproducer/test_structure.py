"""A stripped model has the structure of the original and none of its values; filled again it runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.reproducer.statistics import Statistics
from onnxmpq.reproducer.structure import filled, stripped
from tests.dialects.cases import CASES
from tests.dialects.test_explicit import EVERY as EXPLICIT
from tests.graphs import graph, outputs_of

ANY = st.floats(-100, 100, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=6), elements=ANY))
def test_statistics_are_those_of_numpy(array: np.ndarray) -> None:
    found, finite = Statistics.of(array), array[np.isfinite(array)].astype(np.float64)
    assert (found.dtype, found.shape) == ("float32", array.shape)
    assert (found.nan, found.positive_inf) == (np.isnan(array).sum(), np.isposinf(array).sum())
    assert found.nan + found.positive_inf + found.negative_inf + finite.size == array.size
    if finite.size:
        assert (found.low, found.high, found.zeros) == (finite.min(), finite.max(), (finite == 0).sum())
        np.testing.assert_allclose((found.mean, found.std), (finite.mean(), finite.std()), atol=1e-4)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=6), elements=ANY))
def test_random_values_have_the_same_range_and_counts(array: np.ndarray) -> None:
    wanted = Statistics.of(array)
    found = Statistics.of(wanted.array(np.random.default_rng(0)).astype(np.float32))
    assert (found.shape, found.nan, found.positive_inf, found.negative_inf) == (
        wanted.shape, wanted.nan, wanted.positive_inf, wanted.negative_inf
    )  # fmt: skip
    assert found.zeros >= wanted.zeros
    assert found.low >= min(wanted.low, 0.0) - 1e-4 and found.high <= max(wanted.high, 0.0) + 1e-4


def test_moments_are_kept() -> None:
    values = np.random.default_rng(1).normal(0.3, 0.05, (200, 50)).astype(np.float32)
    again = Statistics.of(Statistics.of(values).array(np.random.default_rng(0)))
    np.testing.assert_allclose((again.mean, again.std), (0.3, 0.05), rtol=0.05)


def large_arrays(proto: onnx.ModelProto) -> list[bytes]:
    return [t.raw_data for t in proto.graph.initializer if len(t.raw_data) > 40]


@pytest.mark.parametrize("name", CASES)
def test_no_weight_is_left_and_the_rest_is(name: str) -> None:
    source = CASES[name].model.proto
    structure, statistics = stripped(source)
    content = structure.SerializeToString()
    assert large_arrays(source) and not any(raw in content or raw[:16] in content for raw in large_arrays(source))
    assert [n.op_type for n in structure.graph.node] == [n.op_type for n in source.graph.node]
    assert [(t.name, t.dims, t.data_type) for t in structure.graph.initializer] == [
        (t.name, t.dims, t.data_type) for t in source.graph.initializer
    ]
    assert list(structure.graph.input) == list(source.graph.input)
    model = filled(structure, statistics)
    onnx.checker.check_model(model, full_check=True)
    for value in outputs_of(model, CASES[name].feeds.arrays).values():
        assert np.all(np.isfinite(value))


@pytest.mark.parametrize(
    "case", [c for c in EXPLICIT if c.id.startswith(("residual_cnn", "tokens")) and "portable" in c.id],
    ids=lambda case: case.id,
)  # fmt: skip
def test_quantized_graphs_too(case: object) -> None:
    """int4, float8 and 16-bit constants, positive scales."""
    structure, statistics = stripped(case.rewrite())  # type: ignore[attr-defined]
    model = filled(structure, statistics)
    onnx.checker.check_model(model, full_check=True)
    outputs_of(model, case.case.feeds.arrays)  # type: ignore[attr-defined]


def described() -> onnx.ModelProto:
    """Secrets in every place that a graph has for them."""
    proto = graph(
        """c = MatMul (x, w)
           r = ReduceMax <keepdims = 0> (c)
           b = Greater (r, zero)
           k = Constant <value = float[12] {1.5, 1.25, 1.125, 1.75, 1.5, 1.25, 1.125, 1.75, 1.5, 1.25, 1.125, 1.75}> ()
           y = If (b) <then_branch = yes () => (float[N, 12] t) { t = Add (c, k) },
                       else_branch = no () => (float[N, 12] e) { e = Neg (c) }>""",
        "float[N, 16] x",
        "float[N, 12] y",
        "float[16, 12] w, float zero = {0.0}",
    )
    body = next(n for n in proto.graph.node if n.op_type == "If").attribute[0].g
    inner = numpy_helper.from_array(np.full(12, 7.0, np.float32) + np.arange(12, dtype=np.float32) / 64, "inner")
    body.initializer.append(inner)
    body.node[0].input[1] = "inner"
    for thing in (proto, proto.graph, proto.graph.node[0], proto.graph.input[0], body, body.node[0]):
        thing.doc_string = "SECRET"
        entry = thing.metadata_props.add()
        entry.key, entry.value = "SECRET", "SECRET"
    proto.producer_name = "SECRET"
    proto.graph.initializer[0].doc_string = "SECRET"
    return proto


def test_descriptions_constants_and_bodies() -> None:
    source = described()
    constants = [a.t for n in source.graph.node for a in n.attribute if a.name == "value"]
    structure, statistics = stripped(source)
    content = structure.SerializeToString()
    assert b"SECRET" not in content
    assert all(numpy_helper.to_array(t).tobytes() not in content for t in constants)
    assert np.full(1, 7.0 + 1 / 64, np.float32).tobytes() not in content
    model = filled(structure, statistics)
    assert outputs_of(model, {"x": np.ones((2, 16), np.float32)})["y"].shape == (2, 12)


def test_what_decides_on_shapes_is_kept() -> None:
    source = graph(
        's = Reshape (x, shape)  y = Resize <mode = "nearest"> (s, , scales)',
        "float[1, 48] x",
        "float[1, 3, 8, 8] y",
        "int64[4] shape = {1, 3, 4, 4}, float[4] scales = {1.0, 1.0, 2.0, 2.0}",
    )
    structure, statistics = stripped(source)
    assert statistics == {}
    assert outputs_of(structure, {"x": np.ones((1, 48), np.float32)})["y"].shape == (1, 3, 8, 8)


def test_long_attributes_and_words() -> None:
    weights, words = [0.5 + i / 128 for i in range(100)], [f"word{i}" for i in range(100)]
    node = helper.make_node(
        "Trees", ["x"], ["y"], "trees", domain="com.example", weights=weights, words=words, few=[1.5]
    )
    strings = helper.make_tensor("vocabulary", TensorProto.STRING, [2], [b"SECRET", b"WORDS"])
    info = helper.make_tensor_value_info
    proto = helper.make_model(helper.make_graph([node], "g", [info("x", 1, [1])], [info("y", 1, [1])], [strings]))
    structure, statistics = stripped(proto)
    content = structure.SerializeToString()
    assert b"SECRET" not in content and b"word" not in content.replace(b"words", b"")
    model = filled(structure, statistics)
    found = {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    assert len(found["weights"]) == len(found["words"]) == 100 and list(found["few"]) == [1.5]
    assert min(found["weights"]) >= 0.5 and max(found["weights"]) <= weights[-1] + 1e-6


def test_the_source_is_not_changed() -> None:
    source = described()
    before = source.SerializeToString(deterministic=True)
    stripped(source)
    assert source.SerializeToString(deterministic=True) == before
