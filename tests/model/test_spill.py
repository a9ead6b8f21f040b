"""Models that are never whole in memory: constants stay in files, and graphs refer to them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxmpq.errors import ModelError, OutputError
from onnxmpq.model import (
    LARGEST_KEPT,
    Model,
    Spill,
    array_of,
    content_of,
    is_reference,
    place_of,
    prepare,
    serialized_bytes,
)
from tests.graphs import graph, outputs_of, samples_for
from tests.model.test_widen import stored_as

LAYERS = graph(
    "h = MatMul (x, w0)\n h1 = Add (h, b0)\n r = Relu (h1)\n y = Gemm <transB = 1> (r, w1, b1)",
    "float[N, 64] x",
    "float[N, 80] y",
    "float[64, 96] w0, float[96] b0, float[80, 96] w1, float[80] b1",
)


def split(proto: onnx.ModelProto, folder: Path) -> Path:
    """The model with the values of each large constant in a file of its own, in another folder each."""
    path, copy = folder / "model.onnx", onnx.ModelProto()
    copy.CopyFrom(proto)
    for number, tensor in enumerate(t for t in copy.graph.initializer if np.prod(t.dims) > LARGEST_KEPT):
        file = folder / f"part{number}" / "weights.bin"
        file.parent.mkdir()
        file.write_bytes(b"header" * number + tensor.raw_data)
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        places = {"location": f"part{number}/weights.bin", "offset": 6 * number, "length": length}
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
    onnx.save_model(copy, path)
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    return prepare(split(LAYERS, tmp_path))


def _references(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in proto.graph.initializer if is_reference(t)]


def test_the_size_of_the_files_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = split(LAYERS, tmp_path)
    size = prepare(path).source_bytes
    assert prepare(path).store.spill is None
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", size + 1)
    assert prepare(path).store.spill is None
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", size)
    assert prepare(path).store.spill is not None


def test_a_model_of_16_bits_is_as_large_as_it_is_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "half.onnx"
    onnx.save_model(stored_as(onnx.ModelProto.FromString(LAYERS.SerializeToString()), TensorProto.FLOAT16), path)
    size, values = path.stat().st_size, sum(np.prod(t.dims) for t in LAYERS.graph.initializer)
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", size + 2 * values + 1)
    assert prepare(path).store.spill is None
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", size + 2 * values)
    store = prepare(path).store
    assert store.spill is not None and store.array("w0").dtype == np.float32


def test_a_graph_by_reference_is_small_and_computes_the_same(model: Model) -> None:
    proto = model.proto
    assert {t.name for t in _references(proto)} == {"w0", "w1"}
    assert proto.ByteSize() < 3000 < serialized_bytes(model.store)
    inputs = samples_for(LAYERS)
    for optimize in (True, False):
        expected, found = (outputs_of(p, inputs, optimize=optimize)["y"] for p in (LAYERS, proto))
        np.testing.assert_array_equal(found, expected)


def test_values_and_sizes_are_those_of_the_whole_model(model: Model, tmp_path: Path) -> None:
    assert serialized_bytes(model.store) == serialized_bytes(model.proto) == serialized_bytes(prepare(LAYERS).proto)
    for tensor in LAYERS.graph.initializer:
        np.testing.assert_array_equal(model.store.array(tensor.name), onnx.numpy_helper.to_array(tensor))
    for tensor in _references(model.proto):
        np.testing.assert_array_equal(array_of(tensor), model.store.array(tensor.name))


def test_changed_constants_are_files_too(model: Model) -> None:
    values = np.ones((64, 96), np.float32)
    changed = model.with_tensors({"w0": values})
    places = {t.name: place_of(t)["location"] for t in _references(changed.proto)}
    assert places["w1"] == {t.name: place_of(t)["location"] for t in _references(model.proto)}["w1"]
    assert changed.store.spill is not None and Path(places["w0"]).parent == changed.store.spill.folder
    np.testing.assert_array_equal(changed.store.array("w0"), values)
    again = model.with_tensors({"w0": values.copy()})
    assert {t.name: place_of(t)["location"] for t in _references(again.proto)} == places  # by content


def test_a_copy_in_another_process_reads_the_same_files(model: Model) -> None:
    changed = model.store.with_tensors({"w0": np.ones((64, 96), np.float32)})
    copy = pickle.loads(pickle.dumps(changed))
    assert copy.assembled() == changed.assembled() and len(pickle.dumps(changed)) < 10_000
    del copy
    np.testing.assert_array_equal(changed.array("w0"), 1)  # which a copy does not remove


def test_the_folder_goes_with_its_last_user() -> None:
    spill = Spill()
    kept = spill.array(np.arange(10))
    folder = spill.folder
    del spill
    assert not folder.exists()
    np.testing.assert_array_equal(kept, np.arange(10))  # mapped


def test_what_passes_takes_no_room(model: Model) -> None:
    spill = model.store.spill
    assert spill is not None
    lasting = model.with_tensors({"w0": np.ones((64, 96), np.float32)})
    with model.store.passing():
        passing = model.with_tensors({"w1": np.ones((80, 96), np.float32)})
        model.with_tensors({"w0": np.ones((64, 96), np.float32)})
        assert len(list(spill.folder.iterdir())) == 2 and passing.store.array("w1").all()
    assert [p.name for p in spill.folder.iterdir()] == [f"{lasting.store.content('w0')}.bin"]
    kept = model.store.kept(np.arange(LARGEST_KEPT + 1))
    assert len(list(spill.folder.iterdir())) == 1 and kept[-1] == LARGEST_KEPT


def test_content_is_known_by_its_hash(model: Model) -> None:
    spill = model.store.spill
    assert spill is not None
    by_place = {t.name: content_of(t) for t in _references(model.proto)}
    assert by_place["w0"] == content_of(spill.put(model.store["w0"])) != by_place["w1"]
    assert content_of(LAYERS.graph.initializer[0]) == ""


def test_a_file_that_changes_meanwhile_is_not_referred_to(model: Model, tmp_path: Path) -> None:
    os.utime(tmp_path / "part1" / "weights.bin", ns=(1, 1))
    with pytest.raises(ModelError, match=r"weights\.bin: was changed while"):
        model.store.assembled()


def test_a_full_disk_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    spill = Spill()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"weights cannot be written there \(No space left on device\); set TMPDIR"):
        spill.array(np.zeros(1000, np.float32))
    assert list(spill.folder.iterdir()) == []


def test_no_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(OutputError, match="no temporary folder can be made for a model of this size"):
        Spill()


def test_two_constants_may_share_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = graph(
        "a = MatMul (x, w0)\n b = MatMul (x, w1)\n y = Sub (a, b)",
        "float[N, 64] x",
        "float[N, 96] y",
        "float[64, 96] w0, float[64, 96] w1",
    )
    path = split(proto, tmp_path)
    shared = onnx.load(path, load_external_data=False)
    del shared.graph.initializer[1].external_data[:]
    shared.graph.initializer[1].external_data.extend(shared.graph.initializer[0].external_data)
    onnx.save_model(shared, path)
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    made = prepare(path)
    assert outputs_of(made.proto, samples_for(proto))["y"].any() == np.False_
    assert len(set(made.shared_weights.values())) == 1
