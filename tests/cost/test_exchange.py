"""Cost tables as files: valid for what they were measured on, and refused with a reason for anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxmpq.cost.exchange import describe, origin, read_table
from onnxmpq.cost.table import CostTable, Transition
from onnxmpq.errors import TargetError
from onnxmpq.model import prepare
from onnxmpq.runtimes import CPU
from onnxmpq.runtimes.onnxruntime.cpu import cpu_model
from tests.graphs import conv_relu, graph, residual_cnn

MODEL = prepare(residual_cnn())
META = describe(MODEL, "cpu", CPU, 1)
TABLE = CostTable({"Conv_0": {"fp32": 1e-3, "int8": 0.0}}, edges={"x\tConv_0": Transition(quantize_s=-1e-6)}, meta=META)


def written(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    data = json.loads(TABLE.to_json())
    change(data)
    path = folder / "costs.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_table_says_what_it_was_measured_on() -> None:
    assert META["cpu"] == cpu_model()
    assert date.fromisoformat(META["date"]) <= date.today()
    assert META["threads"] == "1" and META["onnxruntime"] and len(META["structure_sha256"]) == 64


def test_round_trip(tmp_path: Path) -> None:
    """Kernels that cost nothing and transitions that gain are measured every day."""
    assert read_table(written(tmp_path), META) == TABLE


@pytest.mark.parametrize("field", ["structure_sha256", "target", "provider", "threads", "onnxruntime"])
def test_a_mismatch_is_named(field: str, tmp_path: Path) -> None:
    path = written(tmp_path, lambda data: data["meta"].update({field: "other"}))
    with pytest.raises(TargetError, match=rf"costs.json: {field} is 'other', here it is '{META[field]}'"):
        read_table(path, META)


@pytest.mark.parametrize("field", ["cpu", "date", "platform"])
def test_another_machine_and_day_are_what_it_is_for(field: str, tmp_path: Path) -> None:
    assert (
        read_table(written(tmp_path, lambda data: data["meta"].update({field: "other"})), META).node_s == TABLE.node_s
    )


def test_another_cpu_is_told_with_its_features() -> None:
    assert "another" not in origin(TABLE)
    assert META["cpu"] in origin(TABLE) and META["cpu_features"] in origin(TABLE)
    meta = {**META, "cpu": "Abacus 3000", "cpu_features": f"{META['cpu_features']} beads"}
    line = origin(replace(TABLE, meta=meta))
    assert line.startswith("costs measured on Abacus 3000 (") and line.endswith(
        f"this machine is another: {META['cpu']}, without beads"
    )


@pytest.mark.parametrize("schema", ["onnxmpq.cost-table/1", None])
def test_a_table_of_another_schema_is_refused_naming_both(schema: str | None, tmp_path: Path) -> None:
    path = written(tmp_path, lambda data: data.update(schema=schema))
    with pytest.raises(TargetError, match=r"reads 'onnxmpq.cost-table/3'; profile again") as caught:
        read_table(path, META)
    assert schema is None or schema in str(caught.value)


def other_stride() -> onnx.ModelProto:
    return graph(
        """c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)
           y = Relu (c)""",
        "float[N, 3, 8, 8] x",
        "float[N, 16, 4, 4] y",
        "float[16, 3, 3, 3] w, float[16] b",
    )


def other_input() -> onnx.ModelProto:
    proto = conv_relu()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 16
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    return proto


@pytest.mark.parametrize("other", [other_stride, other_input, residual_cnn])
def test_structure_is_more_than_names(other: Callable[[], onnx.ModelProto]) -> None:
    def structure(proto: onnx.ModelProto) -> str:
        return describe(prepare(proto), "cpu", CPU, 1)["structure_sha256"]

    assert structure(conv_relu()) == structure(conv_relu())
    assert structure(conv_relu()) != structure(other())


def test_weights_do_not_matter() -> None:
    proto = conv_relu()
    weight = next(t for t in proto.graph.initializer if t.name == "w")
    weight.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), "w"))
    one, two = (describe(prepare(p), "cpu", CPU, 1) for p in (proto, conv_relu()))
    assert one["structure_sha256"] == two["structure_sha256"]


@dataclass(frozen=True)
class Damage:
    id: str
    change: Callable[[dict[str, Any]], object]
    words: str


@pytest.mark.parametrize(
    "damage",
    [
        Damage(
            "negative", lambda d: d["node_s"]["Conv_0"].update(int8=-1e-3), r"node_s\['Conv_0'\]\['int8'\] is -0.001"
        ),
        Damage("nan", lambda d: d["node_s"]["Conv_0"].update(int8=float("nan")), "is nan, which is no number"),
        Damage("text", lambda d: d["node_s"]["Conv_0"].update(int8="fast"), "is 'fast', which is no number"),
        Damage("true", lambda d: d["node_s"]["Conv_0"].update(int8=True), "is True, which is no number"),
        Damage("edge", lambda d: d["edges"]["x\tConv_0"].update(into_layout_s=None), "into_layout_s is None"),
        Damage("base", lambda d: d.update(base_s=float("inf")), "base_s is inf"),
        Damage("nothing", lambda d: d["node_s"]["Conv_0"].update(fp32=0.0), "add up to nothing"),
        Damage("energy", lambda d: d.update(node_j={"Conv_0": {"fp32": -1}}), r"node_j\['Conv_0'\]\['fp32'\] is -1"),
        Damage("no table", lambda d: d.update(node_s={"Conv_0": 3}), "not a cost table"),
        Damage("list", lambda d: d.update(node_s=[1]), "not a cost table"),
        Damage("unknown field", lambda d: d.update(nodes={}), "not a cost table"),
        Damage("no meta", lambda d: d.pop("meta"), "structure_sha256 is None"),
    ],
    ids=lambda damage: damage.id,
)
def test_impossible_costs(damage: Damage, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=damage.words) as caught:
        read_table(written(tmp_path, damage.change), META)
    assert "costs.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "other"}', "\xff", "null", "[" * 10_000])
def test_other_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(TargetError, match="not a cost table of `onnxmpq profile`"):
        read_table(path, META)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        read_table(tmp_path / "no.json", META)
