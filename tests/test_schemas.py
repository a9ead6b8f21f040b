"""Published schemas: those of the code, and true of the files that are written."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import onnx
import pytest

import onnxmpq
from onnxmpq.files import dump_json
from onnxmpq.lint import lint, show
from onnxmpq.plan import Plan, PlannedRegion
from onnxmpq.replay import apply_plan
from onnxmpq.result import Result
from tests.conftest import QUICK
from tests.graphs import graph, residual_cnn, samples_for
from tests.schemas import FILES, FOLDER, schema, text
from tests.tables import int8_pays

PROTO = residual_cnn()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("schemas")
    return onnxmpq.convert(
        PROTO,
        calibration=samples_for(PROTO, 16),
        latency="80%",
        size="60%",
        cost_table=int8_pays(PROTO, folder),
        effort=QUICK,
        curve=folder / "curve.csv",
        set={"Gemm": "fp32"},
    )


def strictly(written: str) -> Any:
    """As parsers read it that know the standard alone."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(written, parse_constant=refuse)


def require_valid(written: str, name: str) -> None:
    jsonschema.Draft202012Validator(schema(name)).validate(strictly(written))


@pytest.mark.parametrize("name", FILES)
def test_they_are_those_of_the_code(name: str) -> None:
    """After a change of fields: python -m tests.schemas, and say in docs/plans.md what a new field means."""
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == text(name)
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("made", [Plan, PlannedRegion])
def test_the_docs_say_what_each_field_of_a_plan_means(made: type[Any]) -> None:
    page = (FOLDER.parent / "plans.md").read_text(encoding="utf-8")
    assert not [row.name for row in fields(made) if f"`{row.name}`" not in page]


def test_no_schema_is_left_over() -> None:
    assert {p.stem for p in FOLDER.glob("*.json")} == set(FILES)


def test_plans(result: Result) -> None:
    require_valid(result.plan.to_json(), "plan")
    require_valid(apply_plan(PROTO, result.plan, point=1).plan.to_json(), "plan")


def test_reports(result: Result) -> None:
    require_valid(dump_json(result.report.to_dict()), "report")


def test_cost_tables(result: Result) -> None:
    require_valid(result.problem.table.to_json(), "cost-table")


def test_predictions(tmp_path: Path) -> None:
    made = onnxmpq.predict(
        PROTO, calibration=samples_for(PROTO, 8), size="60%", cost_table=int8_pays(PROTO, tmp_path), effort=QUICK
    )
    require_valid(dump_json(made.to_dict()), "prediction")


def test_checks() -> None:
    broken = graph("y = MatMul (x, w)", "float[N, 16] x", "float[N, 8] y", "float[16, 8] w")
    broken.graph.node[0].input[0] = "nothing"
    findings = lint(broken, "onnxruntime")
    assert findings
    require_valid(dump_json(show.as_dict(findings, "m.onnx", "onnxruntime")), "check")


def test_equal_outputs_have_an_infinite_sqnr_which_is_null(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(PROTO, path)
    found = onnxmpq.validate(path, path, samples_for(PROTO, 2))
    assert found.outputs[0].sqnr_db == float("inf")
    assert strictly(dump_json(found))["outputs"][0]["sqnr_db"] is None


def test_a_schema_refuses_what_is_wrong(result: Result) -> None:
    for change in ({"layer": []}, {"keep_io": "no"}, {"layers": [{"node": 1}]}, {"schema": "onnxmpq.plan/1"}):
        data = {**json.loads(result.plan.to_json()), **change}
        with pytest.raises(jsonschema.ValidationError):
            require_valid(json.dumps(data), "plan")
