"""Reading models: files whole and damaged, opsets old and new, names missing and doubled."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmpq.errors import ModelError
from onnxmpq.model import RegionKind, prepare
from tests.graphs import conv_relu, feeds_for, fill, graph, outputs_of, prepared, residual_cnn


def saved(proto: onnx.ModelProto, folder: Path, *, external: bool = False) -> Path:
    path = folder / "model.onnx"
    if external:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)  # saving moves the weights out of the given proto
        onnx.save_model(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save_model(proto, path)
    return path


@pytest.mark.parametrize("opset", range(7, 22))
def test_every_opset_from_7(opset: int) -> None:
    model = prepared(conv_relu(opset))
    assert model.opset == 21
    assert [r.pattern for r in model.regions] == ["Conv+Relu"]


def test_old_models_list_initializers_as_inputs() -> None:
    proto = conv_relu(9)
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = prepared(proto)
    assert [r.pattern for r in model.layers] == ["Conv+Relu"]


def test_file_is_read_once_and_left_as_it_is(tmp_path: Path) -> None:
    path = saved(residual_cnn(), tmp_path)
    before = path.read_bytes()
    model = prepare(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert (model.source_bytes, model.source_sha256) == (len(before), hashlib.sha256(before).hexdigest())


def test_external_data_counts_as_part_of_the_model(tmp_path: Path) -> None:
    proto = residual_cnn()
    path = saved(proto, tmp_path, external=True)
    model = prepare(path)
    inputs = feeds_for(proto).batch([0])
    np.testing.assert_allclose(outputs_of(model.proto, inputs)["y"], outputs_of(proto, inputs)["y"], atol=1e-5)
    assert model.source_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    assert prepare(path).source_sha256 != model.source_sha256


@dataclass(frozen=True)
class Damage:
    """What is wrong with a file, and words of the message."""

    id: str
    write: Callable[[Path], None]
    message: str


def external_with(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        saved(residual_cnn(), path.parent, external=True)
        change(path.parent / "weights.bin")

    return write


DAMAGES = [
    Damage("no file", lambda path: None, "no such file"),
    Damage("a folder", Path.mkdir, "cannot be read"),
    Damage("empty", lambda path: path.write_bytes(b"") and None, "not an ONNX model"),
    Damage("text", lambda path: path.write_text("hello, world, this is no model") and None, "not an ONNX model"),
    Damage(
        "truncated",
        lambda path: path.write_bytes(residual_cnn().SerializeToString()[:-2000]) and None,
        "not an ONNX model, or truncated",
    ),
    Damage("external data missing", external_with(Path.unlink), "external data file 'weights.bin' is missing"),
    Damage("external data truncated", external_with(lambda p: p.write_bytes(p.read_bytes()[:100])), "external data"),
]


@pytest.mark.parametrize("case", DAMAGES, ids=lambda case: case.id)
def test_damaged_files_are_refused_in_one_line(case: Damage, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    case.write(path)
    with pytest.raises(ModelError, match=case.message) as caught:
        prepare(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_gets_past_the_error_message(tmp_path: Path, data: st.DataObject) -> None:
    """Truncated anywhere, or any byte overwritten: a Model or a ModelError, nothing else."""
    content = bytearray(conv_relu(13).SerializeToString(deterministic=True))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        # the first 200 bytes hold the structure, the rest is weights
        for position in data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=3)):
            content[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    try:
        prepare(path)
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("place", ["name", "inner", "doc", "graph", "graph_doc", "producer", "key"])
def test_texts_in_other_encodings_are_escaped(place: str, tmp_path: Path) -> None:
    """onnxruntime loads such a model; names still refer to what they did."""
    proto = conv_relu(13)
    inner = proto.graph.node[0].output[0]
    marks = {"name": "n@@", "inner": "i@@", "doc": "d@@", "graph": "g@@", "graph_doc": "e@@", "producer": "p@@"}
    proto.graph.node[0].name, proto.graph.node[0].doc_string = "n@@", "d@@"
    proto.graph.node[0].output[0] = "i@@"
    for node in proto.graph.node:
        node.input[:] = ["i@@" if name == inner else name for name in node.input]
    proto.graph.name, proto.graph.doc_string, proto.producer_name = "g@@", "e@@", "p@@"
    proto.metadata_props.add(key="k@@", value="v")
    mark = {**marks, "key": "k@@"}[place].encode()
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True).replace(mark, mark[:1] + b"\xe9@"))
    for source in (path, onnx.ModelProto.FromString(path.read_bytes())):
        prepared = prepare(source)
        assert len(prepared.layers) == 1
        assert prepared.proto.SerializeToString()


def test_invalid_graph_is_refused() -> None:
    proto = conv_relu()
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        prepare(proto)


@given(st.lists(st.sampled_from(["", "a", "a_1", "Relu_1", "b"]), min_size=4, max_size=4))
def test_names_become_unique_and_keep_their_first_use(names: list[str]) -> None:
    proto = graph("a = Relu (x)  b = Sigmoid (a)  c = Tanh (b)  y = Relu (c)", "float[N, 4] x", "float[N, 4] y")
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    model = prepare(proto)
    after = [n.name for n in model.proto.graph.node]
    assert len(set(after)) == 4 and all(after)
    for index, name in enumerate(names):
        if name and name not in names[:index]:
            assert after[index] == name


def test_local_functions_are_inlined() -> None:
    proto = fill(
        onnx.parser.parse_model(
            """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
            g (float[N, 8] x) => (float[N, 4] y) <float[8, 4] w> {
                h = local.twice (x)
                y = MatMul (h, w)
            }
            <domain: "local", opset_import: ["" : 21]>
            twice (a) => (b) { b = Add (a, a) }"""
        )
    )
    model = prepared(proto)
    assert [n.op_type for n in model.proto.graph.node] == ["Add", "MatMul"]
    assert "local functions were inlined" in model.notes


def test_quantized_nodes_are_left_alone() -> None:
    """An already quantized layer beside a float one: the first is frozen, the second a candidate."""
    proto = graph(
        """q = QuantizeLinear (x, s, z)
           d = DequantizeLinear (q, s, z)
           a = MatMul (d, w0)
           b = Relu (a)
           y = MatMul (b, w1)""",
        "float[N, 8] x",
        "float[N, 4] y",
        "float[8, 8] w0, float[8, 4] w1, float s = {0.1}, uint8 z = {128}",
    )
    model = prepared(proto)
    assert [r.name for r in model.layers] == [n.name for n in model.proto.graph.node if n.output[0] == "y"]
    assert len(model.already_quantized) == 2
    assert any("already quantized: 2" in note for note in model.notes)
    touching = [r for r in model.regions if "d" in r.inputs]
    assert [r.kind for r in touching] == [RegionKind.FLOAT]


def test_a_proto_too_large_for_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protobuf ends at 2 GB; it is said before it is asked. A file may be larger (`test_spill.py`)."""
    load = sys.modules["onnxmpq.model.load"]  # onnxmpq.model.load is the function
    monkeypatch.setattr(load, "LARGEST_BYTES", 1500)
    with pytest.raises(ModelError, match="give the path of a model of 2 GB or more"):
        prepare(conv_relu())
    monkeypatch.setattr(load, "LARGEST_BYTES", 4000)
    assert prepare(conv_relu()).layers


def test_inputs_of_a_wrong_rank_are_left_to_the_runtime() -> None:
    """The checker does not look at ranks."""
    proto = graph(
        "a, h, c = LSTM <hidden_size = 4> (x, w, r)  y = Relu (h)",
        "float[T] x",
        "float[A, B, C] y",
        "float[1, 16, 3] w, float[1, 16, 4] r",
    )
    assert prepare(proto).proto.graph.node
