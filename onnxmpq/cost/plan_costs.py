"""Latency of plans: measured on the runtime here and learned from, or asked of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx

from onnxmpq.cost.measure import Profile
from onnxmpq.cost.table import CostTable
from onnxmpq.model import Model
from onnxmpq.runtimes import SessionSettings
from onnxmpq.schemes import Scheme


@dataclass(frozen=True)
class Timings:
    """Of `total` plans that were to be timed, `reused` had been within the last hour on this machine.

    oldest_s: age of the oldest of these. machine: CPU model and a hash of the machine's name.
    """

    reused: int
    total: int
    oldest_s: float
    machine: str

    def in_words(self) -> str:
        """ "12 of 16 timings up to 9 minutes old, from this machine"; empty where none was reused."""
        if not self.reused:
            return ""
        minutes = max(-(-int(self.oldest_s) // 60), 1)
        age = f"{minutes} minute{'s' if minutes > 1 else ''}"
        return f"{self.reused} of {self.total} timings up to {age} old, from this machine"


class PlanProfiler(Protocol):
    """Times plans (`cost.measure.Profiler`). reference_s: of the fp32 model, whose scale all profiles have."""

    @property
    def model(self) -> Model: ...

    @property
    def settings(self) -> SessionSettings: ...

    @property
    def reference_s(self) -> float: ...

    def profile(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> Profile:
        """Measure one rewritten model. Raises ModelError where it does not run."""
        ...

    def try_out(self, proto: onnx.ModelProto) -> None:
        """Run a rewritten model without timing it. Raises ModelError where it does not run, CrashError for a crash."""
        ...

    def settled(self, profiles: Sequence[Profile]) -> list[Profile]:
        """The profiles on the scale of an undisturbed machine, which becomes that of `reference_s`."""
        ...

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float:
        """A model's wall clock once more, with more patience; with a limit, until it is clear whether it is held."""
        ...


class TimedProfiler(PlanProfiler, Protocol):
    """One that knows some plans from the last hour."""

    @property
    def timings(self) -> Timings: ...


class PlanCosts(Protocol):
    """table: the current costs. original_s: latency of the fp32 model. measured: False for modelled latencies.

    timings: how many plans had to be measured; None where none was.
    """

    table: CostTable
    original_s: float
    measured: bool
    known: list[tuple[Mapping[str, Scheme], float]]  # plans whose latency is known beforehand, in seconds

    @property
    def timings(self) -> Timings | None: ...

    def latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> float:
        """Latency of a rewritten model in seconds; may correct `table`. Raises ModelError where it does not run."""
        ...

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float | None:
        """The latency measured once more and longer; None where that would tell nothing new.

        limit_s: measured until it is clear whether that is held; where it stays unclear, the longest likely time.
        """
        ...


class MeasuredCosts:
    """Measures each model and fits the table again with its profile."""

    measured = True

    def __init__(
        self, profiler: TimedProfiler, profiles: list[Profile], refit: Callable[[list[Profile]], CostTable]
    ) -> None:
        self.profiler, self.profiles, self.refit = profiler, list(profiles), refit
        self.table, self.original_s = refit(self.profiles), profiler.reference_s
        self.known = [(p.assignment, p.wall_s) for p in profiles if p.assignment]

    @property
    def timings(self) -> Timings:
        return self.profiler.timings

    def latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> float:
        profile = self.profiler.profile(assignment, proto)
        self.profiles.append(profile)
        self.table = self.refit(self.profiles)
        return profile.wall_s

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float | None:
        return self.profiler.again_s(proto, limit_s)


class TableCosts:
    """Believes a modelled table, or one that was measured on another machine."""

    measured = False
    timings = None

    def __init__(self, model: Model, table: CostTable) -> None:
        self.model, self.table = model, table
        self.original_s = table.predict_s(model, {})
        self.known: list[tuple[Mapping[str, Scheme], float]] = []

    def latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> float:
        return self.table.predict_s(self.model, assignment)

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float | None:
        return None
