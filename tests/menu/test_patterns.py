"""`--set` and `--exclude`: what a pattern matches, what it leaves, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import onnxmpq
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import TargetError, UsageError
from onnxmpq.menu import Menu, candidates, one_activation_format, require_candidates, storage_only, widest_weights
from onnxmpq.schemes import SCHEMES
from onnxmpq.target.load import load_target
from tests.conftest import QUICK
from tests.graphs import prepared, residual_cnn, samples_for, token_model
from tests.tables import int8_pays

CPU, ORT = load_target("cpu"), DIALECTS["onnxruntime"]


def menu_with(
    patterns: dict[str, list[str]], exclude: tuple[str, ...] = (), proto: onnx.ModelProto | None = None
) -> Menu:
    model = prepared(residual_cnn() if proto is None else proto)
    return candidates(model, CPU, ORT, exclude, (), None, {p: tuple(s) for p, s in patterns.items()})


def names(menu: Menu, region: str) -> list[str]:
    return [s.name for s in menu[region]]


def test_a_setting_leaves_its_schemes_alone_and_float32_to_compare_with() -> None:
    menu = menu_with({"Conv_0": ["int8"], "Conv_[35]": ["w8", "w4"]})
    assert names(menu, "Conv_0") == ["fp32", "int8"]
    assert names(menu, "Conv_3") == names(menu, "Conv_5") == ["fp32", "w8", "w4"]
    assert menu.requires("Conv_0") and menu.requires("Conv_3") and not menu.requires("Gemm_10")
    assert "u8u8" in names(menu, "Gemm_10")


def test_an_operator_type_stands_for_all_of_its_regions() -> None:
    menu = menu_with({"Conv": ["w8"], "Add": ["fp32"]})
    assert {name: names(menu, name) for name in menu if name.startswith("Conv")} == {
        name: ["fp32", "w8"] for name in menu if name.startswith("Conv")
    }
    assert names(menu, "Add_6") == ["fp32"]
    assert menu.reasons["Add_6"] == "set by the user (Add)"


def test_the_last_setting_wins_and_exclude_over_all() -> None:
    menu = menu_with({"Conv": ["w8"], "Conv_0": ["int8"], "Conv_3": ["int8"]}, exclude=("Conv_3",))
    assert names(menu, "Conv_0") == ["fp32", "int8"]
    assert names(menu, "Conv_3") == ["fp32"] and menu.reasons["Conv_3"] == "excluded by the user"
    assert names(menu, "Conv_5") == ["fp32", "w8"]


def test_what_has_no_weights_follows_its_neighbours_unless_it_is_named() -> None:
    by_the_way, named = menu_with({"*": ["int8"]}), menu_with({"Add": ["int8"]})
    assert names(by_the_way, "Add_6") == names(named, "Add_6") == ["fp32", "int8"]
    assert named.requires("Add_6") and not by_the_way.requires("Add_6")
    assert by_the_way.requires("Conv_0")


def test_a_pattern_applies_to_those_that_can_and_names_the_layers_that_cannot() -> None:
    menu = menu_with({"*": ["w4b32-level0"]}, proto=token_model())
    assert names(menu, "MatMul_2") == ["fp32", "w4b32-level0"]
    assert "w8" in names(menu, "Gather_0")
    [note] = menu.asked.notes
    assert "'*'=w4b32-level0" in note and "Gather_0" in note


REFUSED = [
    ({"Conv_0": ["w4b32"]}, UsageError, "no such scheme there: Conv_0 (Conv) offers fp32, w8"),
    ({"MaxPool": ["w8"]}, UsageError, "MaxPool_2 (MaxPool) offers fp32, int8"),
    ({"conv_0": ["w8"]}, UsageError, "--set 'conv_0'=w8 matches no node; did you mean Conv_0"),
    ({"Relu": ["fp32"]}, UsageError, "computed as a part of"),
    ({"LSTM": ["w8"]}, UsageError, "operators here are"),
    ({"/(/": ["w8"]}, UsageError, "not a regular expression"),
    ({"Conv": ["fp16"]}, TargetError, "target cpu does not offer 'fp16'"),
]


@pytest.mark.parametrize(("patterns", "error", "message"), REFUSED, ids=[next(iter(p)) for p, _, _ in REFUSED])
def test_refused(patterns: dict[str, list[str]], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        menu_with(patterns)
    assert message in str(caught.value)


def test_filters_by_what_pays_leave_what_was_set() -> None:
    menu = menu_with({"Conv_0": ["int8"], "Conv_3": ["w4"]})
    assert names(storage_only(menu), "Conv_0") == ["fp32", "int8"]
    assert names(widest_weights(menu), "Conv_3") == ["fp32", "w4"]
    assert names(storage_only(menu), "Gemm_10") == ["fp32", "w8", "w4"]


def test_what_cannot_be_had_is_an_error_and_not_float32() -> None:
    menu = menu_with({"Conv_0": ["int8"]})
    lost = menu.where(lambda _, s: s.is_fp32, {"Conv_0": "its constant 'w' holds NaN"})
    with pytest.raises(UsageError, match="--set 'Conv_0'=int8: Conv_0 cannot have it \\(its constant 'w' holds NaN\\)"):
        require_candidates(prepared(residual_cnn()), lost)


def test_the_format_of_activations_follows_what_was_set() -> None:
    """By reach, and where they reach as far by preference, it would be another one."""
    device = load_target("h100")
    model, dialect = prepared(residual_cnn()), DIALECTS[device.dialect]

    def chosen(patterns: dict[str, tuple[str, ...]]) -> Menu:
        return one_activation_format(model, candidates(model, device, dialect, patterns=patterns))

    formats = {s.reads for row in chosen({}).values() for s in row if s.reads.quantized}
    other = next(f for f in ("w8a8-int8", "w8a8-fp8") if SCHEMES[f].reads not in formats)
    layer = next(n for n, row in candidates(model, device, dialect).items() if other in [s.name for s in row])
    assert names(chosen({layer: (other,)}), layer) == ["fp32", other]


@pytest.mark.parametrize("solver", ["milp", "greedy"])
def test_a_conversion_has_what_was_set(solver: str, tmp_path: Path) -> None:
    """Where by the costs and the effect another scheme would be chosen; and the plan says so."""
    model = tmp_path / "m.onnx"
    onnx.save_model(residual_cnn(), model)
    result = onnxmpq.convert(
        model,
        latency="90%",
        calibration=samples_for(residual_cnn(), 12),
        cost_table=int8_pays(model, tmp_path),
        set={"Conv": "int8", "Conv_5": ["w4", "w5"], "Gemm_10": "fp32"},
        exclude=["Conv_3"],
        without=["gptq", "descent"],
        solver=solver,
        guard=False,
        effort=QUICK,
        seed=1,
    )
    schemes = {row.node: row.scheme for row in result.plan.layers}
    assert schemes["Conv_0"] == "int8"
    assert schemes["Conv_5"] in ("w4", "w5")
    assert schemes["Conv_3"] == schemes["Gemm_10"] == "fp32"
    written = json.loads(result.plan.to_json())
    assert written["patterns"] == {"Conv": "int8", "Conv_5": "w4|w5", "Gemm_10": "fp32", "Conv_3": "fp32"}
