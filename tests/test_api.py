"""The Python interface: names, help, forgiving arguments, short reprs, data as rows."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.errors import BudgetError, CalibrationError, ModelError, UsageError
from onnxmpq.files import Rows, serialize
from onnxmpq.plan import Plan
from onnxmpq.quality import Validation
from onnxmpq.report.tables import CURVE
from onnxmpq.result import Result
from tests.conftest import QUICK, SAMPLES
from tests.graphs import residual_cnn, samples_for
from tests.tables import int8_pays

PROTO = residual_cnn()
DATA = samples_for(PROTO, 16)
SCREEN = 24  # lines


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    table = int8_pays(PROTO, tmp_path_factory.mktemp("api"))
    labels = [0] * 16
    return onnxmpq.convert(
        PROTO, calibration=DATA, latency="80%", schemes=["int8", "u8u8"], cost_table=table, effort=QUICK, labels=labels
    )


def test_every_name_is_there_and_listed() -> None:
    assert set(onnxmpq.__all__) <= set(dir(onnxmpq))
    assert sorted(onnxmpq.__all__) == onnxmpq.__all__
    for name in onnxmpq.__all__:
        found = getattr(onnxmpq, name)
        assert inspect.ismodule(found) or isinstance(found, str) or inspect.getdoc(found), name
    with pytest.raises(AttributeError, match="has no attribute 'quantize'"):
        onnxmpq.quantize  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("function", [onnxmpq.calibrate, onnxmpq.profile, onnxmpq.measure_sensitivity])
def test_arguments_that_convert_has_too_are_documented(function: Any) -> None:
    text, named = inspect.getdoc(function) or "", inspect.signature(function).parameters
    assert {"calibration", "recipe", "target", "seed", "progress"} <= named.keys()
    for name in named.keys() - {"model"}:
        assert f"\n{name} : " in text or f"\n{name}: " in text, name


def test_importing_the_package_imports_no_runtime() -> None:
    code = "import sys, onnxmpq; dir(onnxmpq); print('onnxruntime' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_reprs_fit_on_a_screen(result: Result) -> None:
    calibration = onnxmpq.calibrate(SAMPLES / "digits_cnn.onnx", calibration=SAMPLES / "digits_calib.npz", samples=4)
    table = result.problem.table
    for value in (result, result.plan, result.report, result.report.validation, table, calibration):
        text, page = repr(value), value._repr_html_()
        assert text.startswith(f"{type(value).__name__}: ")
        assert len(text.splitlines()) <= SCREEN and len(text) < 3000, text
        assert page.startswith(f"<b>{type(value).__name__}</b>") and page.count("<tr>") == page.count("</tr>")
    assert "budget" in repr(result) and "quality" in repr(result)


def test_reprs_of_other_results(result: Result, tmp_path: Path) -> None:
    """Of everything that a public function returns."""
    table = int8_pays(PROTO, tmp_path)
    inspection = onnxmpq.inspect(SAMPLES / "digits_transformer.onnx")
    prediction = onnxmpq.predict(PROTO, calibration=DATA, size="60%", cost_table=table, effort=QUICK)
    applied = onnxmpq.apply_plan(PROTO, result.plan)
    for value in (inspection, prediction, applied):
        text, page = repr(value), value._repr_html_()
        assert text.startswith(f"{type(value).__name__}: ")
        assert len(text.splitlines()) <= SCREEN and len(text) < 3000, text
        assert page.startswith(f"<b>{type(value).__name__}</b>") and len(page) < 10000
    layers = inspection.layers
    assert f"{len(layers)}, " in repr(inspection) and layers[0]["name"] in inspection._repr_html_()
    assert "size " in repr(prediction) and "60%" in repr(prediction)


def test_a_prediction_out_of_reach_says_that_its_latency_is_predicted(tmp_path: Path) -> None:
    """The costs were measured, the plan was not: it is neither measured nor modelled."""
    table = int8_pays(PROTO, tmp_path)
    with pytest.raises(BudgetError, match="the fastest plan is predicted at") as caught:
        onnxmpq.predict(PROTO, calibration=DATA, latency="0.1%", cost_table=table, effort=QUICK)
    assert "modelled" not in str(caught.value)


def test_names_of_files_are_text_in_html(result: Result) -> None:
    plan = Plan({"name": "<script>"}, "cpu", "onnxruntime", {}, (), {})
    assert "<script>" not in plan._repr_html_() and "&lt;script&gt;" in plan._repr_html_()


def test_sensitivities_are_rows(result: Result) -> None:
    rows = result.sensitivity
    assert rows.columns == tuple(rows[0]) and all(tuple(row) == rows.columns for row in rows)
    chosen = {row["region"]: row["scheme"] for row in rows if row["chosen"]}
    planned = {r.node: r.scheme for r in result.plan.layers}
    assert {name: chosen[name] for name in planned} == planned
    for row in rows:
        assert (row["effect"] is None) == bool(row["reason"])
        if row["scheme"] == "fp32":
            assert row["effect"] == row["effect_alone"] == 0.0
    reasons = {row["reason"] for row in rows if row["region"] == "Conv_3" and row["scheme"] == "w4a8"}
    assert reasons == {"excluded, or not among the schemes that were asked for"}
    int8 = next(row for row in rows if (row["region"], row["scheme"]) == ("Conv_3", "int8"))
    assert int8["effect_alone"] > int8["effect"] > 0 and int8["latency_ms"] == pytest.approx(0.5)


def test_costs_and_curve_are_rows(result: Result) -> None:
    costs = result.costs
    assert costs[0] == {"what": "base", "region": None, "scheme": "", "tensor": "", "reader": None, "ms": 1e-3}
    assert {row["scheme"] for row in costs if row["region"] == "Conv_3"} >= {"fp32", "int8"}
    curve = result.curve
    assert curve.columns == CURVE and set(curve.column("energy_mj")) == {None}, "a CPU has no energies"
    assert curve.column("point") == list(range(1, len(curve) + 1))
    assert curve.column("latency_ms") == sorted(curve.column("latency_ms"))
    assert curve.column("effect") == sorted(curve.column("effect"), reverse=True)


def test_rows_as_frames(result: Result) -> None:
    pandas, polars = (pytest.importorskip(name) for name in ("pandas", "polars"))
    for rows in (result.sensitivity, result.costs, result.curve):
        for frame in (pandas.DataFrame(rows), polars.DataFrame(rows)):
            assert tuple(frame.columns) == rows.columns and len(frame) == len(rows)


def test_rows_as_files(tmp_path: Path) -> None:
    rows = Rows([{"a": 1, "b": float("inf")}, {"a": 2, "b": None}])
    rows.write(tmp_path / "t.csv")
    rows.write(tmp_path / "t.json")
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,inf\n2,\n" == rows.to_csv()
    assert json.loads((tmp_path / "t.json").read_text()) == [{"a": 1, "b": None}, {"a": 2, "b": None}]
    with pytest.raises(UsageError, match=r"t\.txt: a table is written as \.csv or \.json"):
        rows.write(tmp_path / "t.txt")
    again = pickle.loads(pickle.dumps(rows))
    assert again == rows and again.columns == ("a", "b") and Rows(columns=("x",)).columns == ("x",)
    assert Rows(columns=("x",)).to_csv() == "x\n"


def test_long_tables_are_shown_in_part() -> None:
    rows = Rows({"name": "n" * 60, "<i>": i} for i in range(30))
    lines = repr(rows).splitlines()
    assert len(lines) <= SCREEN and lines[-1] == "... 18 more rows" and max(map(len, lines)) < 80
    assert rows._repr_html_().count("<tr>") == 13 and "&lt;i&gt;" in rows._repr_html_()


def test_labels_as_a_list_are_scored(result: Result) -> None:
    metric = result.report.validation.metric
    assert metric is not None and metric.name == "top-1"


@pytest.mark.parametrize("labels", [np.zeros(3), np.array(["a"] * 16), [[1], [1, 2]], np.full(16, np.nan)])
def test_labels_that_are_none(labels: Any, tmp_path: Path) -> None:
    table = int8_pays(PROTO, tmp_path)
    with pytest.raises(CalibrationError, match="labels"):
        onnxmpq.convert(PROTO, calibration=DATA, cost_table=table, effort=QUICK, labels=labels)


@pytest.fixture(scope="module")
def files(result: Result, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    for name, proto in (("a", PROTO), ("b", result.model)):
        (folder / f"{name}.onnx").write_bytes(serialize(proto))
    np.savez(folder / "data.npz", **DATA)
    return folder / "a.onnx", folder / "b.onnx"


@pytest.mark.parametrize("feeds", ["dict", "path", "iterable", "nothing"])
def test_validate_takes_samples_of_any_kind(feeds: str, files: tuple[Path, Path]) -> None:
    given = {
        "dict": DATA,
        "path": files[0].with_name("data.npz"),
        "iterable": [{"x": DATA["x"][i : i + 1]} for i in range(16)],
        "nothing": None,
    }[feeds]
    found = onnxmpq.validate(*files, given)
    assert isinstance(found, Validation) and found.samples == (64 if feeds == "nothing" else 16)
    assert found.timing is not None and found.worst_sqnr_db > 10


def test_validate_takes_models(result: Result, files: tuple[Path, Path]) -> None:
    here, there = onnxmpq.validate(PROTO, result.model, DATA), onnxmpq.validate(*files, DATA)
    assert here.outputs == there.outputs


def test_what_is_no_sample_or_model_is_an_error_of_ours(files: tuple[Path, Path]) -> None:
    with pytest.raises(CalibrationError):
        onnxmpq.validate(*files, 7)
    with pytest.raises(CalibrationError):
        onnxmpq.validate(*files, {"y": DATA["x"]})
    for call in (onnxmpq.convert, onnxmpq.inspect, onnxmpq.check):
        with pytest.raises(ModelError, match="no such file"):
            call("missing.onnx")


def test_what_is_no_model_or_plan_is_told_what_to_give(result: Result) -> None:
    calls: list[Any] = [onnxmpq.convert, onnxmpq.predict, onnxmpq.inspect, onnxmpq.check, onnxmpq.calibrate]
    calls += [onnxmpq.profile, onnxmpq.measure_sensitivity, lambda m: onnxmpq.apply(m, result.plan)]
    for call in [*calls, lambda m: onnxmpq.validate(m, PROTO), lambda m: onnxmpq.validate(PROTO, m)]:
        with pytest.raises(UsageError, match="3 is no model; give the path"):
            call(3)
    with pytest.raises(UsageError, match="3 is no plan; give the path"):
        onnxmpq.apply(PROTO, 3)  # type: ignore[arg-type]


def parameters(function: Any) -> list[inspect.Parameter]:
    """Without `**options`."""
    return [p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]


def first_arguments(function: Any) -> tuple[Any, ...]:
    """Of the right types, for those that the function cannot do without."""
    wanted = [p for p in parameters(function) if p.default is inspect.Parameter.empty]
    return tuple(
        {"plan": "none.plan.json", "path": "none", "source": "none", "output": "none"}.get(p.name, PROTO)
        for p in wanted
    )


PUBLIC = [f for f in (getattr(onnxmpq, name) for name in onnxmpq.__all__) if inspect.isfunction(f)]


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_any_argument_of_a_wrong_type_is_an_error_of_ours(function: Any) -> None:
    """Also arrays, which have no truth value."""
    given = first_arguments(function)
    for place, name in enumerate(p.name for p in parameters(function)):
        for wrong in (object(), np.full((2, 2), None)):
            positional = [wrong if i == place else value for i, value in enumerate(given)]
            named = {} if place < len(given) else {name: wrong}
            with pytest.raises(onnxmpq.OnnxmpqError) as caught:
                function(*positional, **named)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_an_unknown_argument_is_answered_with_the_nearest(function: Any) -> None:
    known = parameters(function)[-1].name
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{known}x'"):
        function(*first_arguments(function), **{f"{known}x": 1})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: onnxmpq.validate(PROTO, PROTO, calibration=7), "int"),  # type: ignore[arg-type]
        (lambda: onnxmpq.validate(PROTO, PROTO, settings="cpu"), "settings='cpu': must be of class SessionSettings"),  # type: ignore[arg-type]
        (lambda: onnxmpq.apply(PROTO, "p", point=True), "point=True: must be a whole number"),
        (lambda: onnxmpq.check(PROTO, dialect=3), "dialect=3: must be a text"),  # type: ignore[arg-type]
        (lambda: onnxmpq.convert(PROTO, progress=print), "must be of class Progress"),  # type: ignore[call-arg]
        (lambda: onnxmpq.calibrate(PROTO, recipe=3), "recipe=3: must be the name of a recipe, a .toml file, or a"),  # type: ignore[arg-type]
        (lambda: onnxmpq.read_plan(3), "3 is no path; give the path of a .plan.json file"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_type_is_told_what_to_give(call: Any, message: str) -> None:
    with pytest.raises(onnxmpq.OnnxmpqError, match=message):
        call()


def test_a_plan_may_be_a_table(result: Result) -> None:
    assert serialize(onnxmpq.apply(PROTO, json.loads(result.plan.to_json()))) == serialize(result.model)


def test_check_gives_rows(result: Result) -> None:
    assert onnxmpq.check(result.model) == []
    with pytest.raises(UsageError, match="dialect 'esperanto' does not exist"):
        onnxmpq.check(result.model, "esperanto")
    broken = onnx.ModelProto()
    broken.CopyFrom(result.model)
    next(n for n in broken.graph.node if n.op_type == "QuantizeLinear").input[0] = "nothing"
    assert {row["severity"] for row in onnxmpq.check(broken)} == {"error"}


def test_sensitivities_without_a_conversion(tmp_path: Path) -> None:
    rows = onnxmpq.measure_sensitivity(PROTO, calibration=DATA, exclude="Gemm_10", cache=False)
    assert {row["reason"] for row in rows if row["region"] == "Gemm_10" and row["scheme"] != "fp32"} == {
        "excluded by the user"
    }
    measured = [row for row in rows if row["region"] == "Conv_3" and row["effect"]]
    assert {"int8", "w8", "w4", "w4a8"} <= {row["scheme"] for row in measured}
    effects = {row["scheme"]: row["effect"] for row in measured}
    assert effects["w4"] > effects["w8"] > 0
    assert all(row["latency_ms"] is None and row["chosen"] is None for row in rows)


def test_only_the_model_goes_by_position() -> None:
    with pytest.raises(
        UsageError, match=r"convert: only the model goes by position; name the rest, as output='o.onnx'"
    ):
        onnxmpq.convert("m.onnx", "o.onnx")  # type: ignore[call-arg, arg-type]


def test_dir_lists_what_is_public() -> None:
    assert {n for n in dir(onnxmpq) if not n.startswith("__")} | {"__version__"} == set(onnxmpq.__all__)
