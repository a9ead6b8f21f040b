"""Timings of the last hour on this machine are found again; nothing else is, and no second look is spared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.cache import Cache
from onnxmpq.cost.measure import Effort, Profile
from onnxmpq.cost.plan_costs import MeasuredCosts
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import ModelError
from onnxmpq.files import Archive
from onnxmpq.model import Model
from onnxmpq.profiling import KEPT_S, RememberingProfiler, timings
from onnxmpq.runtimes import KernelTimes, SessionSettings
from onnxmpq.schemes import SCHEMES, Scheme
from onnxmpq.workbench import Workbench
from tests.graphs import conv_relu, prepared, residual_cnn, samples_for

PLAN: Mapping[str, Scheme] = {"Conv_0": SCHEMES["int8"]}


@dataclass
class Stopwatch:
    """A profiler on a machine where fp32 takes `reference_s` and every plan half of that."""

    reference_s: float = 2e-3
    settings: SessionSettings = field(default_factory=SessionSettings)
    profiled: int = 0
    looked_again: int = 0
    broken: bool = False

    def profile(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> Profile:
        self.profiled += 1
        if self.broken:
            raise ModelError("no kernel")
        part_s = self.reference_s / 8
        operators = {"Conv_0": frozenset({"QLinearConv", "Relu"})}
        times = KernelTimes({"Conv_0": part_s}, {"x": part_s}, part_s, {"Conv_0": 2}, {"x": 1}, 3, operators)
        return Profile(assignment, times, self.reference_s / 2)

    def settled(self, profiles: Sequence[Profile]) -> list[Profile]:
        return list(profiles)

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float:
        self.looked_again += 1
        return self.reference_s


@dataclass
class Setting:
    """One model in a machine's room, whose clock is set by hand."""

    folder: Path
    model: Model = field(default_factory=lambda: prepared(residual_cnn()))
    inputs: dict[str, np.ndarray] = field(default_factory=lambda: samples_for(residual_cnn(), 1))
    effort: Effort = field(default_factory=Effort)
    now: float = 1e9

    def run(self, watch: Stopwatch, cache: Cache | None = None) -> RememberingProfiler:
        cache = cache or Cache(self.folder)
        return RememberingProfiler(watch, cache, self.model, self.inputs, self.effort, lambda: self.now)

    def profile(self, watch: Stopwatch) -> Profile:
        return self.run(watch).profile(PLAN, self.model.proto)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_a_timing_comes_back_on_the_scale_of_the_run_that_finds_it(setting: Setting) -> None:
    first = setting.profile(Stopwatch())
    setting.now += 540.0
    slower = Stopwatch(reference_s=3e-3)
    profiler = setting.run(slower)
    again = profiler.profile(PLAN, setting.model.proto)
    assert slower.profiled == 0
    assert again.wall_s == pytest.approx(1.5e-3) and again.kernel_s == pytest.approx(first.kernel_s * 1.5)
    assert (again.assignment, again.operators) == (PLAN, first.operators)
    times = again.times
    assert (times.region_kernels, times.tensor_kernels, times.other_kernels) == ({"Conv_0": 2}, {"x": 1}, 3)
    found = profiler.timings
    assert (found.reused, found.total, found.oldest_s) == (1, 1, 540.0)
    assert found.in_words() == "1 of 1 timings up to 9 minutes old, from this machine"


def test_a_plan_whose_timing_is_known_is_not_built_again(setting: Setting) -> None:
    """Of the same bench; of another one, and after the hour, it is."""
    watch, built = Stopwatch(), []

    @dataclass(frozen=True)
    class Bench(Workbench):
        def build(self, assignment: Mapping[str, Scheme]) -> onnx.ModelProto:
            built.append(assignment)
            return setting.model.proto

    bench = Bench(setting.model, DIALECTS["onnxruntime"], {}, {})
    first = setting.run(watch).profile_of(bench, PLAN)
    profiler = setting.run(watch)
    assert profiler.profile_of(bench, PLAN) == first
    assert (len(built), watch.profiled, profiler.timings.reused) == (1, 1, 1)
    setting.run(watch).profile_of(replace(bench, keep_io=False), PLAN)
    assert (len(built), watch.profiled) == (2, 1)  # the same bytes
    setting.now += KEPT_S + 1
    setting.run(watch).profile_of(bench, PLAN)
    assert (len(built), watch.profiled) == (3, 2)


def test_what_a_run_has_timed_itself_is_not_reused(setting: Setting) -> None:
    """The loop asks again for plans that the same run has timed: they are found, but nothing is said about them."""
    watch, other = Stopwatch(), onnx.ModelProto()
    other.CopyFrom(setting.model.proto)
    other.graph.node[0].name = "renamed"
    setting.run(Stopwatch()).profile(PLAN, other)
    setting.now += 540.0
    profiler = setting.run(watch)
    for _ in range(3):
        profiler.profile(PLAN, setting.model.proto)
    assert watch.profiled == 1 and not profiler.timings.in_words()
    for _ in range(2):
        setting.now += 60.0
        profiler.profile(PLAN, other)
    found = profiler.timings
    assert watch.profiled == 1 and (found.reused, found.total, found.oldest_s) == (1, 2, 600.0)


@pytest.mark.parametrize("passed_s", [KEPT_S + 1.0, -1.0], ids=["over an hour", "before it was measured"])
def test_other_times_are_measured_again_and_kept_anew(setting: Setting, passed_s: float) -> None:
    setting.profile(Stopwatch())
    setting.now += passed_s
    later, next_one = Stopwatch(), Stopwatch()
    setting.profile(later)
    setting.profile(next_one)
    assert (later.profiled, next_one.profiled) == (1, 0)


CHANGES: dict[str, Callable[[Setting, Stopwatch, pytest.MonkeyPatch], object]] = {
    "fp32 model": lambda s, w, m: setattr(s, "model", prepared(conv_relu())),
    "input": lambda s, w, m: setattr(s, "inputs", samples_for(residual_cnn(), 1, seed=9)),
    "effort": lambda s, w, m: setattr(s, "effort", Effort(seconds=9.0)),
    "threads": lambda s, w, m: setattr(w, "settings", SessionSettings(threads=2)),
    "machine": lambda s, w, m: m.setattr(timings, "machine_id", lambda: "another"),
    "versions and CPU": lambda s, w, m: m.setattr(timings, "programs", lambda: "another"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_measured_elsewhere_is_not_found(what: str, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, watch = setting.model.proto, Stopwatch()
    setting.run(Stopwatch()).profile(PLAN, proto)
    CHANGES[what](setting, watch, monkeypatch)
    setting.run(watch).profile(PLAN, proto)
    assert watch.profiled == 1


def test_another_plan_is_another_graph(setting: Setting) -> None:
    setting.profile(Stopwatch())
    watch, other = Stopwatch(), onnx.ModelProto()
    other.CopyFrom(setting.model.proto)
    other.graph.node[0].name = "renamed"
    setting.run(watch).profile(PLAN, other)
    assert watch.profiled == 1


WORSE = timings._entry(Profile({}, KernelTimes({"Conv_0": float("nan")}), 0.5), 1e9).meta


@pytest.mark.parametrize(
    "meta", [None, [], {}, {"measured_at": "noon"}, {"measured_at": 1e9, "operators": {}, "x": 1}, WORSE]
)
def test_entries_of_another_make_are_measured_again(
    meta: object, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "_entry", lambda *_: Archive({}, meta))
    watch = Stopwatch()
    for _ in range(2):
        setting.profile(watch)
    assert watch.profiled == 2


def test_without_a_cache_everything_is_measured(setting: Setting) -> None:
    watch = Stopwatch()
    for _ in range(2):
        profiler = setting.run(watch, Cache(None))
        profiler.profile(PLAN, setting.model.proto)
    assert watch.profiled == 2
    assert replace(profiler.timings, machine="") == timings.Timings(0, 1, 0.0, "") and not profiler.timings.in_words()


def test_what_does_not_run_is_tried_each_time_and_second_looks_are_taken(setting: Setting) -> None:
    watch = Stopwatch(broken=True)
    for _ in range(2):
        with pytest.raises(ModelError):
            setting.profile(watch)
    assert watch.profiled == 2
    for _ in range(2):
        assert setting.run(watch).again_s(setting.model.proto) == watch.reference_s
    assert watch.looked_again == 2


def test_the_closed_loop_finds_them_and_counts_them(setting: Setting) -> None:
    setting.profile(Stopwatch())
    watch = Stopwatch()
    costs = MeasuredCosts(setting.run(watch), [], lambda profiles: CostTable({"n": {"fp32": len(profiles)}}))
    assert costs.latency_s(PLAN, setting.model.proto) == pytest.approx(1e-3)
    assert costs.table.node_s == {"n": {"fp32": 1}}
    assert watch.profiled == 0 and costs.timings.reused == costs.timings.total == 1
