"""Time a model: its wall clock side by side with a reference, and each of its kernels by the runtime's profiler."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxmpq.cost.attribute import attribute
from onnxmpq.cost.table import Assignment
from onnxmpq.execution import open_graph
from onnxmpq.feeds import Array
from onnxmpq.isolation import call, keep, kept, patience_s
from onnxmpq.model import Model
from onnxmpq.runtimes import Call, SessionSettings, open_session, profile_folder, run, run_error
from onnxmpq.trials import Inputs, both_ways, run_all, tried

R = TypeVar("R")
_KERNEL_SUFFIX = "_kernel_time"
WARMUP_RUNS = 3
QUIET_SHARE = 0.1  # of fp32's rounds: so few are fast for reasons that do not last, the others meet other work


@dataclass(frozen=True)
class Effort:
    """Length of a measurement: `runs` runs or more, until `seconds` have passed, in `rounds` interleaved rounds."""

    seconds: float = 0.6
    runs: int = 10
    rounds: int = 4


@dataclass(frozen=True)
class Profile:
    """One measured plan.

    region_s: region -> seconds in its kernels; tensor_s: tensor -> seconds in movers of it; other_s: in kernels that
    could not be attributed. kernels: how many kernels per region/tensor. wall_s: one run, unprofiled, minimum.
    operators: region -> operator types that ran for it.
    """

    assignment: Assignment
    region_s: dict[str, float]
    tensor_s: dict[str, float]
    other_s: float
    region_kernels: dict[str, int]
    tensor_kernels: dict[str, int]
    other_kernels: int
    wall_s: float
    operators: dict[str, frozenset[str]]

    @property
    def kernel_s(self) -> float:
        return sum(self.region_s.values()) + sum(self.tensor_s.values()) + self.other_s

    def scaled(self, factor: float) -> Profile:
        """The same with all times multiplied."""
        return replace(
            self,
            region_s={r: s * factor for r, s in self.region_s.items()},
            tensor_s={t: s * factor for t, s in self.tensor_s.items()},
            other_s=self.other_s * factor,
            wall_s=self.wall_s * factor,
        )

    @property
    def kernels(self) -> int:
        return sum(self.region_kernels.values()) + sum(self.tensor_kernels.values()) + self.other_kernels


def interleaved_s(
    sessions: Sequence[ort.InferenceSession], feeds: dict[str, Array], effort: Effort
) -> list[NDArray[np.float64]]:
    """Run times in seconds of several sessions, A B A B …: one array per session, minimum of each round."""
    for session in sessions:
        for _ in range(WARMUP_RUNS):
            run(session, feeds)
    once = min(_time_runs(sessions[0], feeds, 2))
    share = effort.seconds / (effort.rounds * len(sessions))
    runs = max(-(-effort.runs // effort.rounds), min(int(share / max(once, 1e-6)), 200), 1)
    minima = [[min(_time_runs(s, feeds, runs)) for s in sessions] for _ in range(effort.rounds)]
    return list(np.array(minima, dtype=np.float64).T)


def _time_runs(session: ort.InferenceSession, feeds: dict[str, Array], runs: int) -> list[float]:
    times = []
    call = Call.of(session, feeds)
    try:  # around the loop and without `run`: what is timed is the runtime alone
        for _ in range(runs):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    except Exception as error:
        raise run_error(error) from error
    return times


class Profiler:
    """Profiles plans of one model on one input, each side by side with the fp32 model to cancel drift.

    All sessions are in the child of `onnxmpq.isolation`, those of one pairing in the same one. others: more inputs,
    which a plan has to run on before it is timed. Methods that run a model raise ModelError where it cannot be run,
    CrashError where it ends or hangs the runtime.
    """

    def __init__(
        self,
        model: Model,
        feeds: dict[str, Array],
        settings: SessionSettings,
        effort: Effort,
        others: Sequence[dict[str, Array]] = (),
    ) -> None:
        self.model, self.feeds, self.settings, self.effort = model, feeds, settings, effort
        self._inputs, self._reference = kept([feeds, *others]), keep(open_graph, model.store, settings)
        start = time.perf_counter()
        rounds = call(_alone, self._reference, self._inputs, effort, doing="timing the original")
        self.limit_s = patience_s(time.perf_counter() - start)
        self.reference_rounds_s = list(rounds)
        self.reference_s = float(min(self.reference_rounds_s))

    def profile(self, assignment: Assignment, proto: onnx.ModelProto) -> Profile:
        """Measure one rewritten model. Times are scaled to the speed of the machine at the first measurement."""
        timed = self._timed(_profiled, proto, both_ways(proto, self.settings), self.effort)
        reference, plain = timed.rounds
        self.reference_rounds_s += list(reference)
        drift = self.reference_s / float(min(reference))
        wall_s = float(min(plain)) * drift
        attribution = attribute(self.model, timed.optimized)
        region_s: dict[str, float] = defaultdict(float)
        tensor_s: dict[str, float] = defaultdict(float)
        region_kernels: dict[str, int] = defaultdict(int)
        tensor_kernels: dict[str, int] = defaultdict(int)
        other_s, other = 0.0, 0
        for name, seconds in timed.durations_s.items():
            if name in attribution.regions:
                region_s[attribution.regions[name]] += seconds * drift
                region_kernels[attribution.regions[name]] += 1
            elif name in attribution.tensors:
                tensor_s[attribution.tensors[name]] += seconds * drift
                tensor_kernels[attribution.tensors[name]] += 1
            else:
                other_s += seconds * drift
                other += 1
        return Profile(
            assignment,
            dict(region_s),
            dict(tensor_s),
            other_s,
            dict(region_kernels),
            dict(tensor_kernels),
            other,
            wall_s,
            attribution.operators,
        )

    def settled(self, profiles: Sequence[Profile]) -> list[Profile]:
        """The profiles in the time of a machine that nothing else disturbs, as far as fp32's rounds have seen one.

        Its first measurement alone sets the scale of everything in milliseconds, and may have met other work.
        """
        before, self.reference_s = self.reference_s, float(np.quantile(self.reference_rounds_s, QUIET_SHARE))
        return [p.scaled(self.reference_s / before) for p in profiles]

    def again_s(self, proto: onnx.ModelProto) -> float:
        """A model's wall clock once more, with more patience: median over the rounds of its ratio to fp32."""
        effort = self.effort
        longer = replace(effort, seconds=2 * effort.seconds, rounds=3 * effort.rounds)
        reference, plain = self._timed(_paired, proto, (self.settings,), longer)
        return float(np.median(plain / reference)) * self.reference_s

    def try_out(self, proto: onnx.ModelProto) -> None:
        """Run a model as it is before it is timed, without timing it."""
        tried(proto, self._inputs, self.settings, limit_s=self.limit_s)

    def _timed(
        self, function: Callable[..., R], proto: onnx.ModelProto, ways: Sequence[SessionSettings], effort: Effort
    ) -> R:
        arguments = self._reference, proto, self._inputs, ways, effort
        return call(function, *arguments, doing="timing a plan", limit_s=self.limit_s)


# ---- in the child ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timed:
    """rounds: of the reference and of the plan. durations_s: by kernel. optimized: the runtime's graph, no weights."""

    rounds: list[NDArray[np.float64]]
    durations_s: dict[str, float]
    optimized: onnx.ModelProto


def _alone(reference: ort.InferenceSession, inputs: Inputs, effort: Effort) -> NDArray[np.float64]:
    return interleaved_s([reference], dict(inputs[0]), effort)[0]


def _paired(
    reference: ort.InferenceSession,
    proto: onnx.ModelProto,
    inputs: Inputs,
    ways: Sequence[SessionSettings],
    effort: Effort,
) -> list[NDArray[np.float64]]:
    """The plan is run on all inputs in every way, the last of which is then timed on the first input."""
    run_all(proto, inputs, ways[:-1])
    session = open_session(proto, ways[-1])
    for feeds in inputs:
        run(session, feeds)
    return interleaved_s([reference, session], dict(inputs[0]), effort)


def _profiled(
    reference: ort.InferenceSession,
    proto: onnx.ModelProto,
    inputs: Inputs,
    ways: Sequence[SessionSettings],
    effort: Effort,
) -> _Timed:
    rounds = _paired(reference, proto, inputs, ways, effort)
    with profile_folder() as folder:
        durations_s, optimized = _kernels(proto, dict(inputs[0]), ways[-1], effort, folder)
    optimized.graph.ClearField("initializer")  # names and operators are what attribution reads
    return _Timed(rounds, durations_s, optimized)


def _kernels(
    proto: onnx.ModelProto, feeds: dict[str, Array], settings: SessionSettings, effort: Effort, folder: Path
) -> tuple[dict[str, float], onnx.ModelProto]:
    """Seconds per kernel (mean of the fastest third of the runs) and the optimised graph."""
    optimized_path = str(folder / "optimized.onnx")
    session = open_session(
        proto, replace(settings, profile_prefix=str(folder / "profile"), optimized_path=optimized_path)
    )
    end = time.perf_counter() + effort.seconds / 2
    runs = 0
    while runs < effort.runs or (time.perf_counter() < end and runs < 200):
        run(session, feeds)
        runs += 1
    events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX):
            durations[event["name"].removesuffix(_KERNEL_SUFFIX)].append(event["dur"] * 1e-6)
    optimized = onnx.load(optimized_path, load_external_data=False)
    return {name: _fastest_third(d) * max(len(d) // runs, 1) for name, d in durations.items()}, optimized


def _fastest_third(durations: list[float]) -> float:
    """Mean of the fastest third: robust against interruptions, finer than the profiler's microsecond."""
    ordered = np.sort(durations)
    return float(ordered[: max(len(ordered) // 3, 1)].mean())
