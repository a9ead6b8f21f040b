"""Profiling on a provider that does not run everything, and on a machine that is not always as fast."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.context import Context
from onnxmpq.cost.measure import Effort, Profile, Profiler
from onnxmpq.cost.table import Assignment
from onnxmpq.errors import ModelError, TargetError
from onnxmpq.profiling import profile
from onnxmpq.progress import Progress
from onnxmpq.runtimes import KernelTimes, SessionSettings
from onnxmpq.workbench import Workbench
from tests.cost.synthetic import Setting, setting
from tests.dialects.cases import ORT, Case
from tests.graphs import feeds_for, residual_cnn

QUICK = Effort(seconds=0.01, runs=2, rounds=2)


class Provider(Profiler):
    """Fails in plans where one of these regions runs in int8."""

    lacks: frozenset[str] = frozenset()

    def profile(self, assignment: Assignment, proto: onnx.ModelProto) -> Profile:
        for name, scheme in assignment.items():
            if name in self.lacks and scheme.kernel == "int8":
                message = f"Non-zero status code returned while running QLinearConv node. Name:'{name}_quant'"
                raise ModelError(message)
        return super().profile(assignment, proto)


class Heard(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def profiled(lacks: set[str]) -> tuple[Setting, list[Profile], int, Heard]:
    case, cnn, heard = setting("residual"), Case("residual", residual_cnn()), Heard()
    menu = case.menu.where(lambda _, s: s.name in ("fp32", "int8", "w4a8"))
    chosen = [{n: s for n, row in menu.items() for s in row if s.name == name} for name in ("int8", "w4a8")]
    weights = {k: w for assignment in chosen for k, w in cnn.weights(assignment).items()}
    bench = Workbench(case.model, ORT, cnn.activations, weights)
    provider = Provider(case.model, feeds_for(residual_cnn()).batch([0]), SessionSettings(), QUICK)
    provider.lacks = frozenset(lacks)
    profiles, uniform = profile(provider, menu, case.rules, bench, Context(heard))
    return case, profiles, uniform, heard


def test_what_runs_is_kept_and_what_fails_is_named() -> None:
    _, everything, all_uniform, silent = profiled(set())
    _, profiles, uniform, heard = profiled({"Conv_5"})
    assert not silent.warnings
    assert 0 < len(profiles) < len(everything) and 0 < uniform < all_uniform
    assert len(heard.warnings) == len(everything) - len(profiles)
    assert all("Conv_5_quant" in w and "CPUExecutionProvider" in w for w in heard.warnings)
    assert profiles[0].assignment == {}, "float32 runs"
    assert not any("Conv_5" in p.assignment for p in profiles)
    assert any("Conv_3" in p.assignment for p in profiles)


def test_a_provider_that_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Profile:
        raise ModelError("device lost")

    monkeypatch.setattr(Profiler, "profile", fail)
    with pytest.raises(TargetError, match=r"runs none of the \d+ plans"):
        profiled(set())


def test_a_busy_first_second_does_not_set_the_scale() -> None:
    """fp32's first measurement met other work and took twice as long as all later ones."""
    case = setting("residual")
    provider = Profiler(case.model, feeds_for(residual_cnn()).batch([0]), SessionSettings(), QUICK)
    provider.reference_s = 2e-3
    provider.reference_rounds_s = [2e-3, 2e-3, *np.linspace(1.0e-3, 1.1e-3, 40)]
    before = Profile({}, KernelTimes({"a": 1e-3}, {"t": 2e-4}, 1e-4, {"a": 1}, {"t": 1}, 1), 4e-3)
    [after] = provider.settled([before])
    assert provider.reference_s == pytest.approx(1.01e-3, rel=0.01)
    assert after.wall_s / provider.reference_s == pytest.approx(2.0)
    assert after.kernel_s / before.kernel_s == pytest.approx(after.wall_s / before.wall_s)
    assert after.kernels == before.kernels
