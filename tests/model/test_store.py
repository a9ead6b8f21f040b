"""The store against the protos that it stands for."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import ModelError
from onnxmpq.model import Model, WeightStore, prepare, serialized_bytes
from onnxmpq.model.files import read_structure
from onnxmpq.model.shell import LARGEST_KEPT
from onnxmpq.model.store import IN_THE_STORE
from tests.graphs import feeds_for, fill, graph, outputs_of, residual_cnn, token_model

LARGE = graph(
    "h = MatMul (x, w0)\n h1 = Add (h, b0)\n r = Relu (h1)\n y = Gemm <transB = 1> (r, w1, b1)",
    "float[N, 64] x",
    "float[N, 80] y",
    "float[64, 96] w0, float[96] b0, float[80, 96] w1, float[80] b1",
)
MODELS = [prepare(p) for p in (LARGE, residual_cnn(), token_model())]
TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.INT4)


def test_the_structure_describes_large_constants_and_holds_small_ones() -> None:
    store = WeightStore.of(LARGE)
    assert store.large == {"w0", "w1"} and list(store) == ["w0", "b0", "w1", "b1"]
    assert serialized_bytes(store.structure) < 2000 < serialized_bytes(LARGE)
    for tensor in store.structure.graph.initializer:
        assert list(tensor.dims) == list(store[tensor.name].dims) and tensor.data_type == store[tensor.name].data_type
    with pytest.raises(Exception, match=IN_THE_STORE):
        onnx.numpy_helper.to_array(store.structure.graph.initializer[0])


@pytest.mark.parametrize("proto", [LARGE, residual_cnn(), token_model(), MODELS[0].proto])
def test_assembled_again_it_is_the_same_graph(proto: onnx.ModelProto) -> None:
    assert WeightStore.of(proto).assembled().SerializeToString() == proto.SerializeToString()


def _model_with(draw: st.DataObject, model: Model) -> tuple[Model, dict[str, np.ndarray]]:
    names = draw.draw(st.lists(st.sampled_from(list(model.store)), unique=True))
    floats = [n for n in names if model.store[n].data_type == onnx.TensorProto.FLOAT]
    seed = draw.draw(st.integers(0, 99))
    generator = np.random.default_rng(seed)
    changes = {n: np.asarray(generator.standard_normal(tuple(model.store[n].dims)), np.float32) for n in floats}
    return model.with_tensors(changes), changes


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(MODELS), st.data())
def test_whoever_reads_a_changed_model_reads_the_same(model: Model, draw: st.DataObject) -> None:
    """`weight`, `store`, `structure` and `proto` of changes upon changes agree; other models stay as they were."""
    before = model.proto.SerializeToString()
    expected = {name: model.store.array(name) for name in model.store}
    changed = model
    for _ in range(draw.draw(st.integers(1, 3))):
        changed, changes = _model_with(draw, changed)
        expected |= changes
    assembled = {t.name: onnx.numpy_helper.to_array(t) for t in changed.proto.graph.initializer}
    assert list(assembled) == list(model.store)
    for name, values in expected.items():
        np.testing.assert_array_equal(assembled[name], values)
        np.testing.assert_array_equal(changed.store.array(name), values)
    for region in changed.layers:
        stored = assembled[region.params.weight].astype(np.float32)
        np.testing.assert_array_equal(changed.weight(region), region.params.matrix(stored))
    for tensor in changed.structure.graph.initializer:
        if tensor.name not in changed.store.large:
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), expected[tensor.name])
    assert model.proto.SerializeToString() == before


def test_changes_share_what_they_do_not_change() -> None:
    store = WeightStore.of(LARGE)
    changed = store.with_tensors({"w0": np.zeros((64, 96), np.float32)})
    assert changed["w1"] is store["w1"] and changed.structure is store.structure


@pytest.mark.parametrize("values", [np.zeros((96, 64), np.float32), np.zeros((64, 96)), np.float32(0)])
def test_changes_of_another_shape_or_type_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="w0"):
        WeightStore.of(LARGE).with_tensors({"w0": values})
    with pytest.raises(KeyError):
        WeightStore.of(LARGE).with_tensors({"w9": values})


def test_constants_in_files_are_read_when_they_are_looked_up(tmp_path: Path) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(LARGE)
    onnx.save_model(copy, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    lean = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    store = WeightStore.of(lean, tmp_path)
    changed = store.with_tensors({"w1": np.ones((80, 96), np.float32)})
    assert store.assembled().SerializeToString() == LARGE.SerializeToString()
    (tmp_path / "m.data").unlink()
    np.testing.assert_array_equal(changed.array("w1"), 1)
    np.testing.assert_array_equal(changed.array("b1"), WeightStore.of(LARGE).array("b1"))
    with pytest.raises(ModelError, match=r"m\.data: cannot be read any more"):
        changed.array("w0")


def test_a_graph_made_from_a_structure_keeps_what_it_only_describes(tmp_path: Path) -> None:
    """Also as another type, and what came with values; sizes are those of the file."""
    halves = onnx.ModelProto()
    halves.CopyFrom(LARGE)
    for tensor in halves.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    (tmp_path / "m.onnx").write_bytes(halves.SerializeToString())
    for store in (WeightStore.of(halves), WeightStore.of(read_structure(tmp_path / "m.onnx"), tmp_path)):
        made = onnx.ModelProto()
        made.CopyFrom(store.structure)
        places = {t.name: t for t in made.graph.initializer}
        places["w0"].data_type = onnx.TensorProto.FLOAT
        places["w1"].CopyFrom(onnx.numpy_helper.from_array(np.ones((90, 96), np.float32), "w1"))
        found = store.follow(made)
        assert found.large == {"w0", "w1"}
        np.testing.assert_array_equal(found.array("w0"), store.array("w0").astype(np.float32))
        assert found.array("w0").dtype == np.float32 and found.array("w1").shape == (90, 96)
        assert serialized_bytes(found) == len(found.assembled().SerializeToString())


def test_a_model_goes_to_another_process_and_back() -> None:
    again = pickle.loads(pickle.dumps(MODELS[0]))
    inputs = feeds_for(LARGE, 2).batch([0])
    np.testing.assert_array_equal(outputs_of(again.proto, inputs)["y"], outputs_of(MODELS[0].proto, inputs)["y"])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 3 * LARGEST_KEPT), st.text("aé", max_size=200))),
    st.booleans(),
)
def test_sizes_are_added_up_as_the_serializer_finds_them(tensors: list[tuple[int, int, str]], bare: bool) -> None:
    proto = onnx.ModelProto() if bare else fill(residual_cnn())
    for data_type, elements, name in tensors:
        width = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2}.get(data_type, 1)
        tensor = onnx.TensorProto(name=name, data_type=data_type, dims=[elements], raw_data=bytes(width * elements))
        proto.graph.initializer.append(tensor)
    assert serialized_bytes(onnx.ModelProto(ir_version=10)) == 2
    assert serialized_bytes(proto) == len(proto.SerializeToString(deterministic=True))
