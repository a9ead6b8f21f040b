"""What a model says about itself is in the prepared and in the written graph, whatever its opset."""

from __future__ import annotations

import onnx
import pytest

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.integrity import structure_faults
from onnxmpq.model import prepare
from tests.graphs import conv_relu


def described(opset: int) -> onnx.ModelProto:
    proto = conv_relu(opset)
    proto.doc_string, proto.domain, proto.model_version, proto.graph.doc_string = "a model", "com.example", 7, "a graph"
    proto.producer_name, proto.producer_version = "a framework", "1.2"
    onnx.helper.set_model_props(proto, {"names": "{0: 'ä'}"})
    entry = proto.graph.metadata_props.add()
    entry.key, entry.value = "of the graph", "too"
    for info in (proto.graph.input[0], proto.graph.output[0]):
        info.doc_string = f"about {info.name}"
        info.type.denotation = "IMAGE"
    proto.graph.output[0].type.tensor_type.shape.dim[2].Clear()  # neither a size nor a name
    return proto


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_descriptions_metadata_and_ends_are_kept(dialect: str, opset: int) -> None:
    source = described(opset)
    model = prepare(source)
    for proto in (model.proto, DIALECTS[dialect].rewrite(Rewrite(model, {}, {}, {}))):
        assert structure_faults(proto, source) == []
        assert list(proto.graph.input) == list(source.graph.input)
        assert list(proto.graph.output) == list(source.graph.output)
        assert list(proto.graph.metadata_props) == list(source.graph.metadata_props)
        assert proto.graph.doc_string == "a graph"
        assert (proto.producer_name, proto.producer_version) == ("a framework", "1.2")


def test_what_is_not_said_takes_no_bytes() -> None:
    model = prepare(conv_relu())
    assert not any(model.proto.HasField(field) for field in ("doc_string", "domain", "model_version"))


def test_models_that_are_given_are_not_changed() -> None:
    source = described(13)
    before = source.SerializeToString(deterministic=True)
    prepare(source)
    assert source.SerializeToString(deterministic=True) == before
