"""Who says how long a plan takes: the runtime here, which is measured and learned from, or a table, which is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import onnx

from onnxmpq.cost.measure import Profile, Profiler
from onnxmpq.cost.table import CostTable
from onnxmpq.model import Model
from onnxmpq.schemes import Scheme


class Judge(Protocol):
    """table: the current costs. original_s: latency of the fp32 model. measured: False for modelled latencies."""

    table: CostTable
    original_s: float
    measured: bool
    known: list[tuple[Mapping[str, Scheme], float]]  # plans whose latency is known beforehand, in seconds

    def latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> float:
        """Latency of a rewritten model in seconds; may correct `table`. Raises ModelError where it does not run."""
        ...

    def again_s(self, proto: onnx.ModelProto) -> float | None:
        """The latency measured once more and longer; None where that would tell nothing new."""
        ...


class MeasuringJudge:
    """Measures each model and fits the table again with its profile."""

    measured = True

    def __init__(
        self, profiler: Profiler, profiles: list[Profile], refit: Callable[[list[Profile]], CostTable]
    ) -> None:
        self.profiler, self.profiles, self.refit = profiler, list(profiles), refit
        self.table, self.original_s = refit(self.profiles), profiler.reference_s
        self.known = [(p.assignment, p.wall_s) for p in profiles if p.assignment]

    def latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> float:
        profile = self.profiler.profile(assignment, proto)
        self.profiles.append(profile)
        self.table = self.refit(self.profiles)
        return profile.wall_s

    def again_s(self, proto: onnx.ModelProto) -> float | None:
        return self.profiler.again_s(proto)


class TableJudge:
    """Believes a modelled table, or one that was measured on another machine."""

    measured = False

    def __init__(self, model: Model, table: CostTable) -> None:
        self.model, self.table = model, table
        self.original_s = table.predict_s(model, {})
        self.known: list[tuple[Mapping[str, Scheme], float]] = []

    def latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> float:
        return self.table.predict_s(self.model, assignment)

    def again_s(self, proto: onnx.ModelProto) -> float | None:
        return None
