"""Plan files: what is written is read back, applied exactly, and every damage to them is an error with a place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxmpq
from onnxmpq.errors import OnnxmpqError, OutputError, PlanError, UsageError
from onnxmpq.files import serialize
from onnxmpq.plan import Plan, read_plan
from onnxmpq.progress import Progress
from onnxmpq.provenance import describe_runtime
from onnxmpq.result import Result
from onnxmpq.schemes import SCHEMES
from tests.conftest import QUICK
from tests.graphs import graph, initializer, residual_cnn, samples_for
from tests.tables import int8_pays

PROTO = residual_cnn()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("plan")
    calibration = samples_for(PROTO, 16)
    table = int8_pays(PROTO, folder)
    return onnxmpq.convert(PROTO, calibration=calibration, latency="80%", cost_table=table, effort=QUICK)


def edited(result: Result, change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(result.plan.to_json())
    change(data)
    return json.dumps(data)


def test_round_trip(result: Result, tmp_path: Path) -> None:
    text = result.plan.to_json()
    assert Plan.from_json(text) == result.plan
    assert Plan.from_json(text).to_json() == text
    path = tmp_path / "x.plan.json"
    path.write_text(text, encoding="utf-8")
    assert read_plan(path) == result.plan


def test_every_region_that_could_change_is_in_it(result: Result) -> None:
    rows = {r.node: r for r in result.plan.layers}
    assert {"Conv_0", "Conv_3", "Conv_5", "Gemm_10"} <= rows.keys()
    originals = [o for r in rows.values() for o in r.original]
    assert len(originals) == len(set(originals)) == len(PROTO.graph.node)
    for row in rows.values():
        assert (row.scheme == "fp32") == bool(row.reason)
        assert row.scheme in SCHEMES


def test_it_says_what_it_is_for(result: Result) -> None:
    data = json.loads(result.plan.to_json())
    assert data["schema"] == "onnxmpq.plan/2"
    assert data["model"]["bytes"] == PROTO.ByteSize()
    assert data["budgets"] == {"latency": "80%"}
    assert {"onnxruntime", "cpu", "threads"} <= data["runtime"].keys()
    assert {"latency_ms", "size_bytes", "effect", "solver_gap"} <= data["prediction"].keys()


def test_applying_gives_the_same_bytes(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "again.onnx"
    onnxmpq.apply(PROTO, result.plan, output=path)
    assert path.read_bytes() == serialize(result.model)


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_it_says_what_it_was_made_with(result: Result) -> None:
    assert result.plan.runtime == {**describe_runtime(), "threads": "1"}
    assert {"onnxmpq", "onnxruntime", "onnx", "numpy", "highspy", "cpu", "cpu_features"} <= result.plan.runtime.keys()


def test_applied_with_the_same_versions_there_is_nothing_to_say(result: Result) -> None:
    heard = Heard()
    onnxmpq.apply(PROTO, result.plan, progress=heard)
    assert not heard.warnings


def test_another_version_that_gives_the_same_bytes_is_none_of_the_users_business(result: Result) -> None:
    heard = Heard()
    onnxmpq.apply(PROTO, replace(result.plan, runtime={**result.plan.runtime, "numpy": "2.0.0"}), progress=heard)
    assert not heard.warnings


def test_other_bytes_and_another_version_are_named(result: Result) -> None:
    runtime, heard = {**result.plan.runtime, "onnx": "1.16.0"}, Heard()
    onnxmpq.apply(PROTO, replace(result.plan, runtime=runtime, output_sha256="0" * 64), progress=heard)
    [line] = heard.warnings
    assert f"made with onnx 1.16.0 (here {onnx.__version__}), or was edited" in line


def test_kernels_of_another_cpu_are_named(result: Result) -> None:
    runtime, heard = {**result.plan.runtime, "cpu_features": "x86_64 abacus"}, Heard()
    onnxmpq.apply(PROTO, replace(result.plan, runtime=runtime), progress=heard)
    assert not heard.warnings, "proven exact on any CPU"
    onnxmpq.apply(PROTO, replace(result.plan, runtime=runtime, deploy_cpu="vnni"), progress=heard)
    line = heard.warnings[-1]
    assert "rounded for the kernels of x86_64 abacus; this machine comes without abacus" in line


@pytest.mark.parametrize("scheme", ["fp32", "int8", "u8u8", "w4a8", "w8", "w4"])
def test_an_edited_scheme_is_applied(result: Result, scheme: str) -> None:
    def change(data: dict[str, Any]) -> None:
        next(r for r in data["layers"] if r["node"] == "Conv_3")["scheme"] = scheme

    plan = Plan.from_json(edited(result, change))
    proto = onnxmpq.apply(PROTO, plan)
    onnx.checker.check_model(proto, full_check=True)
    assert plan.schemes.get("Conv_3", "fp32") == scheme
    kinds = {t.data_type for t in proto.graph.initializer if t.name.startswith("w1/codes")}
    four_bit = {onnx.TensorProto.INT4}
    expected = {"w4a8": four_bit, "w4": four_bit, "u8u8": {onnx.TensorProto.UINT8}, "fp32": set()}
    assert kinds == expected.get(scheme, {onnx.TensorProto.INT8})


@pytest.fixture(scope="module")
def full_range(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Converted for a CPU on which int8 weights may have their full range."""
    table = int8_pays(PROTO, tmp_path_factory.mktemp("full_range"))
    options = {"latency": "fastest", "cost_table": table, "effort": QUICK, "deploy_cpu": "vnni"}
    return onnxmpq.convert(PROTO, calibration=samples_for(PROTO, 16), **options)  # type: ignore[arg-type]


def test_the_deployment_cpu_is_in_it(result: Result, full_range: Result) -> None:
    assert result.plan.deploy_cpu == "any" and full_range.plan.deploy_cpu == "vnni"
    free = {r: w.format.endswith("_saturation_free") for r, w in result.plan.weights.items()}
    assert free == {r: result.plan.schemes[r].endswith(("int8", "a8")) for r in result.plan.weights}
    assert not any(w.format.endswith("_saturation_free") for w in full_range.plan.weights.values())


def test_a_plan_without_a_deployment_cpu_is_of_the_full_range(full_range: Result) -> None:
    def older(data: dict[str, Any]) -> None:
        del data["deploy_cpu"], data["exactness"]

    plan = Plan.from_json(edited(full_range, older))
    assert plan.deploy_cpu == "vnni"
    assert serialize(onnxmpq.apply(PROTO, plan)) == serialize(full_range.model)


@pytest.mark.parametrize("cpu", ["any", "avx2"])
def test_a_plan_of_the_full_range_is_refused_where_it_saturates(cpu: str, full_range: Result, tmp_path: Path) -> None:
    of = r"weights of 4 layers .*: Conv_0 \(\d+ of 16 channels\), .* and 1 more"
    message = f"the plan is for --deploy-cpu vnni; {of}; convert again with --deploy-cpu {cpu}"
    with pytest.raises(PlanError, match=message):
        onnxmpq.apply(PROTO, full_range.plan, deploy_cpu=cpu, output=tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_a_plan_of_the_full_range_whose_weights_happen_to_obey_the_bound(tmp_path: Path) -> None:
    """Every second weight is 0, so that no pair has two."""
    proto = graph("y = MatMul (x, w)", "float[N, 64] x", "float[N, 32] y", "float[64, 32] w")
    values = initializer(proto, "w").copy()
    values[::2] = 0.0
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    options = {"cost_table": int8_pays(proto, tmp_path), "effort": QUICK, "deploy_cpu": "vnni", "schemes": ["int8"]}
    made = onnxmpq.convert(proto, calibration=samples_for(proto, 16), **options)  # type: ignore[arg-type]
    assert made.plan.exactness.startswith("int8 arithmetic: exact on every supported CPU (proven: 1 layer)")
    for cpu in (None, "any", "avx2", "vnni", "arm64"):
        assert serialize(onnxmpq.apply(proto, made.plan, deploy_cpu=cpu)) == serialize(made.model)


@pytest.mark.parametrize("cpu", ["vnni", "arm64"])
def test_a_plan_is_applied_for_a_cpu_that_asks_for_less(cpu: str, result: Result) -> None:
    assert serialize(onnxmpq.apply(PROTO, result.plan, deploy_cpu=cpu)) == serialize(result.model)


def test_a_cpu_that_does_not_exist_and_a_plan_for_no_cpu(result: Result) -> None:
    with pytest.raises(UsageError, match="--deploy-cpu avx3: no such CPU; did you mean avx2"):
        onnxmpq.apply(PROTO, result.plan, deploy_cpu="avx3")
    with pytest.raises(UsageError, match="the plan is for target 'cpu', which is no CPU"):
        onnxmpq.apply(PROTO, replace(result.plan, deploy_cpu="none"), deploy_cpu="any")


@dataclass(frozen=True)
class Damage:
    """A change to a plan, and words of the message."""

    id: str
    change: Callable[[dict[str, Any]], object]
    message: str


def first_layer(data: dict[str, Any]) -> dict[str, Any]:
    return next(r for r in data["layers"] if r["node"] == "Conv_0")


DAMAGES = [
    Damage(
        "other schema",
        lambda d: d.update(schema="onnxmpq.plan/9"),
        "its schema is 'onnxmpq.plan/9', this version of onnxmpq reads 'onnxmpq.plan/2'; convert",
    ),
    Damage("no schema", lambda d: d.pop("schema"), "it names no schema, this version of onnxmpq reads"),
    Damage("other model", lambda d: d["model"].update(sha256="0" * 64), "belongs to another model"),
    Damage("model is a list", lambda d: d.update(model=[]), "wrong type"),
    Damage("unknown node", lambda d: first_layer(d).update(node="Conv_99"), "node 'Conv_99' is not in the model"),
    Damage("unknown scheme", lambda d: first_layer(d).update(scheme="w3a3x"), "unknown scheme 'w3a3x'"),
    Damage("scheme is a number", lambda d: first_layer(d).update(scheme=8), "wrong type"),
    Damage("impossible scheme", lambda d: first_layer(d).update(scheme="w4b32"), "cannot have scheme 'w4b32'"),
    Damage("unknown dialect", lambda d: d.update(dialect="esperanto"), "'esperanto' is unknown"),
    Damage("unknown rounding", lambda d: d.update(rounding="up", weights={}), "rounding"),
    Damage("no layers", lambda d: d.pop("layers"), "'layers'"),
    Damage("layers is a number", lambda d: d.update(layers=3), "wrong type"),
    Damage("layer is text", lambda d: d["layers"].append("x"), "wrong type"),
    Damage("field too many", lambda d: d.update(comment="hello"), "comment"),
    Damage("field of a layer too many", lambda d: first_layer(d).update(color="red"), "color"),
    Damage("the same node twice", lambda d: d["layers"].append(dict(first_layer(d), scheme="w8")), "twice"),
    Damage("parameters missing", lambda d: d.update(activations={}), "no parameters for tensor"),
    Damage("scale zero", lambda d: d["activations"]["x"].update(scale=0.0), "activations: 'x'"),
    Damage("scale negative", lambda d: d["activations"]["x"].update(scale=-1.0), "activations: 'x'"),
    Damage("scale infinite", lambda d: d["activations"]["x"].update(scale=float("inf")), "activations: 'x'"),
    Damage("scale text", lambda d: d["activations"]["x"].update(scale="1"), "activations: 'x'"),
    Damage("zero point too large", lambda d: d["activations"]["x"].update(zero_point=256), "activations: 'x'"),
    Damage("keep_io text", lambda d: d.update(keep_io="no"), "keep_io 'no' is neither true nor false"),
    Damage("unknown CPU", lambda d: d.update(deploy_cpu="z80"), "deploy_cpu 'z80' is none of any, avx2, vnni"),
    Damage("CPU is a number", lambda d: d.update(deploy_cpu=2), "deploy_cpu 2 is none of any, avx2, vnni"),
    Damage("zero point fractional", lambda d: d["activations"]["x"].update(zero_point=1.5), "activations: 'x'"),
]


@pytest.mark.parametrize("case", DAMAGES, ids=lambda case: case.id)
def test_damage_is_refused(case: Damage, result: Result, tmp_path: Path) -> None:
    path = tmp_path / "bad.plan.json"
    path.write_text(edited(result, case.change), encoding="utf-8")
    with pytest.raises(PlanError, match=case.message) as caught:
        onnxmpq.apply(PROTO, path, output=tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.plan.json"]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"plan"', "\x00", "[" * 100_000])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.plan.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(path)
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path / "missing.json")


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON document."""
    keys = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(p for key, value in keys for p in places(value, (*path, key)))]


json_values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 300), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_edit_gets_past_the_error_message(result: Result, data: st.DataObject) -> None:
    """Any value of the file replaced or removed: it is applied, or refused in one line."""
    document = json.loads(result.plan.to_json())
    path = data.draw(st.sampled_from(places(document)[1:]))
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(json_values)
    else:
        del holder[path[-1]]
    try:
        proto = onnxmpq.apply(PROTO, Plan.from_json(json.dumps(document)))
        onnx.checker.check_model(proto)
    except OnnxmpqError as error:
        assert "\n" not in str(error)


def test_never_over_the_input(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(serialize(PROTO))
    (tmp_path / "link.onnx").symlink_to(path)
    for output in (path, tmp_path / "link.onnx", tmp_path / "." / "model.onnx"):
        with pytest.raises(OutputError, match="is the input model"):
            onnxmpq.apply(path, result.plan, output=output)
    assert path.read_bytes() == serialize(PROTO)


def test_json_that_is_no_object_is_no_plan() -> None:
    with pytest.raises(PlanError, match="here: no plan: it is JSON, but no object of fields; write the plan again"):
        Plan.from_json("[]", "here")
