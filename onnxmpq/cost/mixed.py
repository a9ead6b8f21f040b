"""Profiles of plans whose runs have several shapes: means by the share of each shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxmpq.cost.measure import Profile, Profiler
from onnxmpq.cost.table import Assignment
from onnxmpq.model import Model
from onnxmpq.runtimes import KernelTimes, SessionSettings


class MixedProfiler:
    """Profilers of one model on inputs of different shapes, with the share of runs that have each.

    Every time is the mean by share: of a run, and of each kernel in it. Raises what `Profiler` does.
    """

    def __init__(self, parts: Sequence[tuple[float, Profiler]]) -> None:
        self._parts = parts
        first = parts[0][1]
        self.model: Model = first.model
        self.settings: SessionSettings = first.settings

    @property
    def reference_s(self) -> float:
        return sum(share * profiler.reference_s for share, profiler in self._parts)

    def profile(self, assignment: Assignment, proto: onnx.ModelProto) -> Profile:
        """Measure one rewritten model on every shape."""
        found = [(share, profiler.profile(assignment, proto)) for share, profiler in self._parts]
        wall_s = sum(share * profile.wall_s for share, profile in found)
        return Profile(assignment, mean_times([(share, profile.times) for share, profile in found]), wall_s)

    def settled(self, profiles: Sequence[Profile]) -> list[Profile]:
        """See `Profiler.settled`."""
        before = self.reference_s
        for _, profiler in self._parts:
            profiler.settled([])
        return [p.scaled(self.reference_s / before) for p in profiles]

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float:
        """See `Profiler.again_s`; each shape is measured once, as the limit is of their mean."""
        return sum(share * profiler.again_s(proto) for share, profiler in self._parts)

    def try_out(self, proto: onnx.ModelProto) -> None:
        """See `Profiler.try_out`."""
        for _, profiler in self._parts:
            profiler.try_out(proto)


def mean_times(parts: Sequence[tuple[float, KernelTimes]]) -> KernelTimes:
    """Seconds by share. A run has the same kernels whatever its shapes are; where it does not, the most that any has.

    parts: (share, times); shares add up to 1.
    """
    scaled, plain = [times.scaled(share) for share, times in parts], [times for _, times in parts]
    return KernelTimes(
        _sums([t.region_s for t in scaled]),
        _sums([t.tensor_s for t in scaled]),
        sum(t.other_s for t in scaled),
        _most([t.region_kernels for t in plain]),
        _most([t.tensor_kernels for t in plain]),
        max(t.other_kernels for t in plain),
        _together([t.operators for t in plain]),
    )


def _sums(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0.0) for row in rows) for name in names}


def _most(rows: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: max(row.get(name, 0) for row in rows) for name in names}


def _together(rows: Sequence[Mapping[str, frozenset[str]]]) -> dict[str, frozenset[str]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: frozenset().union(*(row.get(name, frozenset()) for row in rows)) for name in names}
