"""Reading a model without the values of its large constants."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmpq.errors import ModelError
from onnxmpq.model import WeightStore, prepare
from onnxmpq.model.files import LONGEST_READ, external, read_structure
from tests.graphs import fill, graph, residual_cnn

LARGE = fill(
    graph(
        "h = MatMul (x, w0)\n h1 = Add (h, b0)\n y = Relu (h1)",
        "float[N, 64] x",
        "float[N, 96] y",
        "float[64, 96] w0, float[96] b0",
    )
)


def _read(path: Path, content: bytes) -> WeightStore:
    path.write_bytes(content)
    return WeightStore.of(read_structure(path), path.parent)


def test_large_constants_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    store = _read(path, LARGE.SerializeToString())
    assert [external(t) for t in read_structure(path).graph.initializer] == [True, False]
    assert store.assembled().SerializeToString() == LARGE.SerializeToString()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3 * LONGEST_READ), st.text("aé", max_size=200), st.booleans(), st.booleans())),
    st.booleans(),
)
def test_what_is_read_is_what_the_parser_reads(
    tmp_path: Path, tensors: list[tuple[int, str, bool, bool]], empty: bool
) -> None:
    """Raw values and others, with descriptions, behind and before other fields."""
    proto = onnx.ModelProto(ir_version=9) if empty else onnx.ModelProto.FromString(residual_cnn().SerializeToString())
    for number, (count, text, raw, described) in enumerate(tensors):
        tensor = onnx.TensorProto(name=f"{text}{number}", data_type=onnx.TensorProto.INT8, dims=[count])
        if raw:
            tensor.raw_data = bytes(count)
        else:
            tensor.int32_data.extend([0] * count)
        if described:
            tensor.doc_string = text
        proto.graph.initializer.append(tensor)
    content = proto.SerializeToString()
    assert _read(tmp_path / "m.onnx", content).assembled() == onnx.ModelProto.FromString(content)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_as_the_parser_reads_it_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(LARGE.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        expected = onnx.ModelProto.FromString(bytes(content))
        expected.DiscardUnknownFields()  # type: ignore[attr-defined]
    except DecodeError:
        expected = None
    try:
        found = _read(tmp_path / "m.onnx", bytes(content)).assembled()
        found.DiscardUnknownFields()  # type: ignore[attr-defined]
    except DecodeError:
        assert expected is None
    else:
        assert found == expected


def test_a_file_that_changes_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(LARGE.SerializeToString())
    model = prepare(path)
    held = model.store.array("w0")
    np.testing.assert_array_equal(held, onnx.numpy_helper.to_array(LARGE.graph.initializer[0]))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelError, match=r"m\.onnx: was changed while"):
        model.store.array("w0")


def test_constants_are_read_through_a_link_to_the_model(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(LARGE.SerializeToString())
    (tmp_path / "m.onnx").symlink_to(tmp_path / "blob")
    assert prepare(tmp_path / "m.onnx").weight(prepare(LARGE).layers[0]).tobytes()
