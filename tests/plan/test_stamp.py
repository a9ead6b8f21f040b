"""The stamp: what made a model, in the model, and nothing that two equal runs would not share."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import onnxmpq
from onnxmpq.dialects import marked
from onnxmpq.files import serialize
from onnxmpq.plan.stamp import stamped
from onnxmpq.result import Result
from tests.conftest import QUICK
from tests.graphs import outputs_of, residual_cnn, samples_for
from tests.tables import int8_pays


def made_by_pytorch() -> onnx.ModelProto:
    proto = residual_cnn()
    proto.producer_name, proto.producer_version = "pytorch", "2.4.0"
    proto.metadata_props.add(key="author", value="somebody")
    return proto


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    proto = made_by_pytorch()
    table = int8_pays(proto, tmp_path_factory.mktemp("stamp"))
    options = {"cost_table": table, "effort": QUICK, "output": table.with_name("out.onnx"), "cache": False}
    return onnxmpq.convert(proto, calibration=samples_for(proto, 16), size="50%", seed=3, **options)  # type: ignore[arg-type]


def test_it_says_what_made_the_model(result: Result) -> None:
    model, plan = result.model, result.plan
    assert (model.producer_name, model.producer_version) == ("onnxmpq", onnxmpq.__version__)
    found = stamped(model)
    assert found.keys() == {"plan", "options", "target", "data", "source"}
    assert found["source"] == "pytorch 2.4.0" and found["target"] == "cpu"
    assert found["plan"] == plan.decided() == plan.decisions_sha256
    assert json.loads(found["options"]) == plan.options == {"size": "50%", "seed": 3}
    assert found["data"] == plan.data["sha256"] and plan.data["samples"] == 12
    assert {e.key: e.value for e in model.metadata_props}["author"] == "somebody"
    assert marked(model) and set(marked(model).values()) <= set(plan.schemes.values())


def test_the_size_that_was_promised_is_that_of_the_file(result: Result) -> None:
    assert result.plan.measured["size_bytes"] == len(serialize(result.model)) == result.report.result_bytes


def test_without_samples_it_says_so(tmp_path: Path) -> None:
    proto = residual_cnn()
    for name in ("producer_name", "producer_version"):
        proto.ClearField(name)
    made = onnxmpq.convert(proto, samples=8, cost_table=int8_pays(proto, tmp_path), size="50%", effort=QUICK)
    assert stamped(made.model)["data"] == "made up" and "source" not in stamped(made.model)
    assert made.plan.data["made_up"] is True
    assert made.plan.measured["size_bytes"] == len(serialize(made.model))


def test_dates_are_in_the_report_and_not_where_equal_inputs_give_equal_files(result: Result) -> None:
    assert not result.plan.created, "costs come from a table"
    assert result.report.created.startswith("20")
    assert result.report.created[:10].encode() not in serialize(result.model)


def test_it_computes_the_same_without(result: Result) -> None:
    plain = onnx.ModelProto()
    plain.CopyFrom(result.model)
    del plain.metadata_props[:]
    for node in plain.graph.node:
        del node.metadata_props[:]
    inputs = {name: values[:1] for name, values in samples_for(residual_cnn()).items()}
    with_stamp, without = (outputs_of(m, inputs) for m in (result.model, plain))
    assert all((with_stamp[name] == without[name]).all() for name in without)
