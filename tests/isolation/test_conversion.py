"""Whole conversions whose child crashes or is killed: they complete, and what crashes is not handed out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxmpq
from onnxmpq.commands import calibration
from onnxmpq.context import Context
from onnxmpq.cost.measure import Profiler
from onnxmpq.cost.profile import Crashing
from onnxmpq.errors import CrashError
from onnxmpq.files import serialize
from onnxmpq.isolation import isolated
from onnxmpq.profiling import plan_costs, profile
from onnxmpq.progress import Progress
from onnxmpq.runtimes import SessionSettings
from onnxmpq.target.load import load_target
from onnxmpq.workbench import Workbench
from tests.conftest import QUICK, SAMPLES
from tests.cost.synthetic import setting
from tests.dialects.cases import ORT, Case
from tests.graphs import feeds_for, residual_cnn, samples_for
from tests.isolation.functions import Faulty, Hunted, in_int8
from tests.tables import int8_pays

CRASHING = "Conv_5"
FAST = ("gptq", "bias-correction", "equalisation", "smoothquant")
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")
pytestmark = POSIX


class Heard(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def convert(folder: Path, progress: Progress, **options: Any) -> onnxmpq.Result:
    """By a table in which int8 pays everywhere."""
    proto = residual_cnn()
    chosen: dict[str, Any] = {"latency": "fastest", "schemes": ["int8"], "without": FAST, **options}
    table = int8_pays(proto, folder)
    samples = samples_for(proto, 48)
    return onnxmpq.convert(proto, calibration=samples, cost_table=table, effort=QUICK, progress=progress, **chosen)


def test_the_fault_is_one_without_which_the_layer_would_be_int8(tmp_path: Path) -> None:
    result = convert(tmp_path, Heard())
    assert in_int8(result.model, CRASHING)


BUDGETS: list[dict[str, Any]] = [{}, {"latency": "60%", "best_effort": True}, {"latency": None, "min_sqnr": "10dB"}]


@pytest.mark.parametrize("options", BUDGETS, ids=["fastest", "budget", "floor"])
def test_a_crashing_region_is_left_out(tmp_path: Path, options: dict[str, Any]) -> None:
    """Nothing is measured beside a table, so the crash shows when a plan is judged or about to be handed out."""
    heard, output = Heard(), tmp_path / "out.onnx"
    with isolated(Faulty(CRASHING)) as child:
        result = convert(tmp_path, heard, output=output, **options)
    assert isinstance(child, Faulty) and child.crashes > 0
    assert output.read_bytes() == serialize(result.model)
    assert not in_int8(result.model, CRASHING)
    schemes = {layer.node: layer.scheme for layer in result.plan.layers}
    assert schemes[CRASHING] == "fp32" and "int8" in schemes.values()
    assert any("SIGSEGV" in w for w in heard.warnings)
    assert any(f"int8 at {CRASHING} is the cause" in w for w in heard.warnings)


def test_a_second_rounding_that_crashes_is_left_out(tmp_path: Path) -> None:
    """Only the graph with other weights crashes: the one that was measured is handed out."""
    heard = Heard()
    plain = convert(tmp_path, Heard(), without=("cross", *FAST))

    class Second(Faulty):
        def call(self, function: Any, *arguments: Any, **options: Any) -> Any:
            changed = [a for a in arguments if isinstance(a, onnx.ModelProto) and in_int8(a, CRASHING)]
            self.left = int(any(a.graph != plain.model.graph for a in changed))
            return super().call(function, *arguments, **options)

    with isolated(Second(CRASHING, most=0)):
        result = convert(tmp_path, heard, without=FAST)
    assert result.model.graph == plain.model.graph


def profiled(child: Faulty) -> tuple[list[Any], Crashing, Heard]:
    case, cnn, heard = setting("residual"), Case("residual", residual_cnn()), Heard()
    menu = case.menu.where(lambda _, s: s.name in ("fp32", "int8"))
    weights = cnn.weights({name: row[-1] for name, row in menu.items()})
    bench = Workbench(case.model, ORT, cnn.activations, weights)
    crashing: Crashing = {}
    with isolated(child):
        profiler = Profiler(case.model, feeds_for(residual_cnn()).batch([0]), SessionSettings(), QUICK)
        profiles, _ = profile(profiler, menu, case.rules, bench, Context(heard), crashing)
    return profiles, crashing, heard


def test_plans_are_measured_without_what_crashes() -> None:
    everything, none, silent = profiled(Faulty(CRASHING, most=0))
    assert not none and not silent.warnings
    profiles, crashing, heard = profiled(Faulty(CRASHING))
    assert len(profiles) == len(everything)
    assert crashing == {CRASHING: {"int8"}}
    [warning] = heard.warnings
    assert f"int8 at {CRASHING} is the cause" in warning and "SIGSEGV" in warning
    assert not any(CRASHING in p.assignment for p in profiles)
    assert any("Conv_3" in p.assignment for p in profiles)


def test_what_crashes_is_not_on_the_menu_and_the_reason_is_given() -> None:
    case, cnn, heard = setting("residual"), Case("residual", residual_cnn()), Heard()
    menu = case.menu.where(lambda _, s: s.name in ("fp32", "int8"))
    weights = cnn.weights({name: row[-1] for name, row in menu.items()})
    bench = Workbench(case.model, ORT, cnn.activations, weights)
    target, feeds = load_target("cpu"), feeds_for(residual_cnn())
    arguments = case.model, target, menu, case.rules, bench, feeds, SessionSettings(), QUICK, None, Context(heard)
    with isolated(Faulty(CRASHING)):
        costs, left = plan_costs(*arguments)
    assert costs.measured
    assert [s.name for s in left[CRASHING]] == ["fp32"] and "crashes with int8" in left.reasons[CRASHING]
    assert [s.name for s in left["Conv_3"]] == ["fp32", "int8"]


@pytest.mark.parametrize("calls", [{4}, {0, 2, 3, 5, 8, 13}], ids=["once", "often"])
def test_a_child_that_is_killed_from_outside_changes_nothing(calls: set[int], tmp_path: Path) -> None:
    expected = convert(tmp_path, Heard())
    heard = Heard()
    with isolated(Hunted(calls)) as child:
        result = convert(tmp_path, heard)
    assert isinstance(child, Hunted) and child.kills > 0
    assert serialize(result.model) == serialize(expected.model)
    assert not any("killed" in w for w in heard.warnings)


def test_a_measured_conversion_completes_though_its_child_is_killed(tmp_path: Path) -> None:
    with isolated(Hunted({1, 6, 12, 18, 24})) as child:
        result = onnxmpq.convert(
            SAMPLES / "digits_cnn.onnx",
            schemes=["w8"],
            size="60%",  # on float32's kernels, which are as fast everywhere
            calibration=SAMPLES / "digits_calib.npz",
            samples=12,
            effort=QUICK,
            without=FAST,
            output=tmp_path / "out.onnx",
        )
    assert isinstance(child, Hunted) and child.kills > 0
    assert (tmp_path / "out.onnx").read_bytes() == serialize(result.model)


def test_a_model_that_crashes_from_the_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.isolation.functions.in_int8", lambda *_: True)
    output = tmp_path / "out.onnx"
    for command in (
        lambda: convert(tmp_path, Heard(), output=output),
        lambda: calibration.calibrate(SAMPLES / "digits_cnn.onnx", calibration=SAMPLES / "digits_calib.npz"),
    ):
        with isolated(Faulty("")), pytest.raises(CrashError, match=r"SIGSEGV while .* try it in another version") as e:
            command()
        assert e.value.exit_code == 3 and "\n" not in str(e.value)
    assert not output.exists()
