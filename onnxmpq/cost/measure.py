"""Time a model: its wall clock side by side with a reference, and each of its kernels by the runtime's profiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.cost.table import Assignment
from onnxmpq.execution import whole
from onnxmpq.feeds import Array
from onnxmpq.intervals import median_interval
from onnxmpq.isolation import Kept, keep, kept, patience_s
from onnxmpq.measuring import timed
from onnxmpq.model import Model, WeightStore, sink
from onnxmpq.runtimes import REFERENCE, KernelTimes, Runtime, SessionSettings
from onnxmpq.trials import Inputs, both_ways, run_all, tried

R = TypeVar("R")
WARMUP_RUNS = 3
LONGER = 2  # parts of a second look where there is no limit
LOOKS = (1, 1, 2, 2)  # of one that is to tell on which side of a limit a plan is; it may end after each
QUIET_SHARE = 0.1  # of fp32's rounds: so few are fast for reasons that do not last, the others meet other work


@dataclass(frozen=True)
class Effort:
    """Length of a measurement: `runs` runs or more, until `seconds` have passed, in `rounds` interleaved rounds."""

    seconds: float = 0.6
    runs: int = 10
    rounds: int = 4


@dataclass(frozen=True)
class Profile:
    """One measured plan. times: of its kernels. wall_s: one run, unprofiled, minimum."""

    assignment: Assignment
    times: KernelTimes
    wall_s: float

    @property
    def kernel_s(self) -> float:
        """Seconds in all kernels."""
        times = self.times
        return sum(times.region_s.values()) + sum(times.tensor_s.values()) + times.other_s

    @property
    def kernels(self) -> int:
        """Number of all kernels."""
        times = self.times
        return sum(times.region_kernels.values()) + sum(times.tensor_kernels.values()) + times.other_kernels

    @property
    def operators(self) -> dict[str, frozenset[str]]:
        """Region -> operator types that ran for it."""
        return self.times.operators

    def scaled(self, factor: float) -> Profile:
        """The same with all times multiplied."""
        return replace(self, times=self.times.scaled(factor), wall_s=self.wall_s * factor)


def interleaved_s(calls: Sequence[Callable[[], object]], effort: Effort) -> list[NDArray[np.float64]]:
    """Times in seconds of several calls, A B A B …: one array per call, minimum of each round.

    calls: runs of models with everything prepared (`Runtime.prepared`). Raises what they raise.
    """
    for warming in calls:
        for _ in range(WARMUP_RUNS):
            warming()
    once = min(_times_s(calls[0], 2))
    share = effort.seconds / (effort.rounds * len(calls))
    runs = max(-(-effort.runs // effort.rounds), min(int(share / max(once, 1e-6)), 200), 1)
    minima = [[min(_times_s(c, runs)) for c in calls] for _ in range(effort.rounds)]
    return list(np.array(minima, dtype=np.float64).T)


def _times_s(timed: Callable[[], object], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        timed()
        times.append(time.perf_counter() - start)
    return times


class Profiler:
    """Profiles plans of one model on one input, each side by side with the fp32 model to cancel drift.

    All sessions are where time is taken (`onnxmpq.measuring`), those of one pairing in the same process. others: more
    inputs, which a plan has to run on before it is timed. Methods that run a model raise ModelError where it cannot be
    run, CrashError where it ends or hangs the runtime.

    A model that is never whole in memory is timed once as users open it, and closed. Beside plans runs a session of it
    whose weights stay in their files; its time is only compared with itself.
    """

    _per_reference = 1.0
    """Time of the original over that of the session that runs beside plans."""

    def __init__(
        self,
        model: Model,
        feeds: dict[str, Array],
        settings: SessionSettings,
        effort: Effort,
        runtime: Runtime = REFERENCE,
        others: Sequence[dict[str, Array]] = (),
    ) -> None:
        self.model, self.feeds, self.settings, self.effort, self.runtime = model, feeds, settings, effort, runtime
        self._inputs = kept([feeds, *others])
        start = time.perf_counter()
        original = keep(_opened, runtime, model.store, settings)
        rounds = self._original(original)
        self.limit_s = patience_s(time.perf_counter() - start)
        self.reference_rounds_s = list(rounds)
        self.reference_s = float(min(self.reference_rounds_s))
        self._reference = original
        if model.store.spill is not None:
            del original  # or it would be in memory beside every plan
            self._reference = keep(_opened, runtime, model.store, replace(settings, mapped=True))
            self._per_reference = self.reference_s / float(min(self._original(self._reference)))

    def _original(self, session: Kept[Any]) -> NDArray[np.float64]:
        return timed(_alone, self.runtime, session, self._inputs, self.effort, doing="timing the original")

    def profile(self, assignment: Assignment, proto: onnx.ModelProto) -> Profile:
        """Measure one rewritten model. Times are scaled to the speed of the machine at the first measurement."""
        timed = self._timed(_profiled, proto, self._inputs, both_ways(proto, self.settings), self.effort)
        reference, plain = timed.rounds[0] * self._per_reference, timed.rounds[1]
        self.reference_rounds_s += list(reference)
        drift = self.reference_s / float(min(reference))
        times = self.runtime.kernels(self.model, timed.trace)
        return Profile(assignment, times, float(min(plain))).scaled(drift)

    def settled(self, profiles: Sequence[Profile]) -> list[Profile]:
        """The profiles in the time of a machine that nothing else disturbs, as far as fp32's rounds have seen one.

        Its first measurement alone sets the scale of everything in milliseconds, and may have met other work.
        """
        before, self.reference_s = self.reference_s, float(np.quantile(self.reference_rounds_s, QUIET_SHARE))
        return [p.scaled(self.reference_s / before) for p in profiles]

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float:
        """A model's wall clock once more, with more patience: median over the rounds of its ratio to fp32.

        limit_s: measured until the median's 95 % interval is on one side of it, at most as long as all `LOOKS`. A model
        that stays undecided is not believed to hold the limit: its time is the upper end of the interval.
        """
        plan, ratios = keep(_plan, self.runtime, proto, self._inputs, (self.settings,)), np.zeros(0)
        for parts in (LONGER,) if limit_s is None else LOOKS:
            reference, plain = self._beside(plan, parts)
            ratios = np.concatenate([ratios, plain / (reference * self._per_reference)])
            low, high = (end * self.reference_s for end in median_interval(ratios))
            if limit_s is None or not low <= limit_s <= high:
                return float(np.median(ratios)) * self.reference_s
        return high

    def _beside(self, plan: Kept[Any], parts: int) -> list[NDArray[np.float64]]:
        """Rounds of fp32 and of an open session; a part is as long as a first measurement, of more rounds."""
        effort = replace(self.effort, seconds=parts * self.effort.seconds, rounds=parts * 3 * self.effort.rounds // 2)
        return self._timed(_side_by_side, plan, self._inputs, effort)

    def try_out(self, proto: onnx.ModelProto) -> None:
        """Run a model as it is before it is timed, without timing it."""
        tried(proto, self._inputs, self.settings, runtime=self.runtime, limit_s=self.limit_s, where=timed)

    def _timed(self, function: Callable[..., R], *arguments: Any) -> R:
        """`function`, given the runtime, the session beside plans, and these, where time is taken."""
        given = self.runtime, self._reference, *arguments
        return timed(function, *given, doing="timing a plan", limit_s=self.limit_s)


# ---- in the child ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timed:
    """rounds: of the reference and of the plan. trace: of the plan, for `Runtime.kernels`."""

    rounds: list[NDArray[np.float64]]
    trace: Any


def _opened(runtime: Runtime, store: WeightStore, settings: SessionSettings) -> Any:
    proto = whole(store)
    sink(proto)  # as plans are written
    return runtime.open(proto, settings)


def _alone(runtime: Runtime, reference: Any, inputs: Inputs, effort: Effort) -> NDArray[np.float64]:
    return interleaved_s([runtime.prepared(reference, inputs[0])], effort)[0]


def _plan(runtime: Runtime, proto: onnx.ModelProto, inputs: Inputs, ways: Sequence[SessionSettings]) -> Any:
    """A session of the plan in the last of these ways, after it was run on all inputs in each."""
    run_all(proto, inputs, ways[:-1], runtime)
    session = runtime.open(proto, ways[-1])
    for feeds in inputs:
        runtime.run(session, feeds)
    return session


def _side_by_side(
    runtime: Runtime, reference: Any, plan: Any, inputs: Inputs, effort: Effort
) -> list[NDArray[np.float64]]:
    return interleaved_s([runtime.prepared(s, inputs[0]) for s in (reference, plan)], effort)


def _profiled(
    runtime: Runtime,
    reference: Any,
    proto: onnx.ModelProto,
    inputs: Inputs,
    ways: Sequence[SessionSettings],
    effort: Effort,
) -> _Timed:
    rounds = _side_by_side(runtime, reference, _plan(runtime, proto, inputs, ways), inputs, effort)
    return _Timed(rounds, runtime.trace(proto, inputs[0], ways[-1], effort.runs, effort.seconds / 2))
