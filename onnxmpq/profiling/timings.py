"""Timings of the last hour, kept on the machine that measured them: the next run need not measure those plans again.

What is kept is relative to the fp32 model that was measured beside the plan, and is put on the scale of the run that
finds it, whose machine may be faster or slower by now. A profile is found by the rewritten model, the fp32 model, the
input, the session's settings and the effort; by this package's source, the versions and the CPU; and by the machine.
It serves to choose plans: what is handed out is measured anew (`again_s`, and the comparison at the end).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import onnx

from onnxmpq.cache import Cache, content_hash
from onnxmpq.cost import Effort, PlanProfiler, Profile, Timings
from onnxmpq.feeds import Array
from onnxmpq.files import Archive, is_number, serialize
from onnxmpq.keys import model_hash, programs
from onnxmpq.measuring import described, elsewhere
from onnxmpq.model import Model
from onnxmpq.provenance import machine_id
from onnxmpq.runtimes import KernelTimes, SessionSettings
from onnxmpq.schemes import Scheme
from onnxmpq.workbench import Workbench

KEPT_S = 3600.0


class RememberingProfiler:
    """A profiler that asks the cache first. Plans that it cannot run, and second looks, are the profiler's own."""

    def __init__(
        self,
        profiler: PlanProfiler,
        cache: Cache,
        model: Model,
        feeds: Mapping[str, Array] | Mapping[str, Mapping[str, Array]],
        effort: Effort,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds since some moment that is the same in all runs."""
        self._profiler, self._cache, self._clock = profiler, cache, clock
        self._context = functools.partial(
            content_hash, "timing", programs(), _machine(), model_hash(model), feeds, profiler.settings, effort
        )
        self._timed = 0
        self._ages_s: dict[str, float] = {}  # of what an earlier run had timed, by key
        self._own: set[str] = set()  # keys of what this run has measured, which it finds in the cache as well

    @property
    def model(self) -> Model:
        return self._profiler.model

    @property
    def settings(self) -> SessionSettings:
        return self._profiler.settings

    @property
    def reference_s(self) -> float:
        return self._profiler.reference_s

    @property
    def timings(self) -> Timings:
        """Number of plans timed so far, and of those that an earlier run had timed, with the age of the oldest."""
        reused, oldest_s = len(self._ages_s), max(self._ages_s.values(), default=0.0)
        return Timings(reused, reused + self._timed, oldest_s, f"{described()['cpu']} {_machine()}")

    def profile(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> Profile:
        """As the profiler's, on the scale of its `reference_s`. Raises ModelError."""
        if self._cache.folder is None:
            return self._measured(assignment, proto)
        key = self._context(serialize(proto))
        if (known := self._known(key, assignment)) is not None:
            return known
        profile = self._measured(assignment, proto)
        self._own.add(key)
        self._cache.put(key, _entry(profile.scaled(1.0 / self.reference_s), self._clock()))
        return profile

    def profile_of(self, bench: Workbench, assignment: Mapping[str, Scheme]) -> Profile:
        """As `profile`, of the model that the bench builds; it is not built where its timing is known."""
        if self._cache.folder is None or bench.model.store.spill is not None:  # whose weights are long to hash
            return self.profile(assignment, bench.build(assignment))
        plan = {region: scheme.name for region, scheme in assignment.items()}
        alias = self._context("of a plan", _content(bench), plan)
        key = self._cache.get(alias, _named)
        known = None if key is None else self._known(key, assignment)
        if known is not None:
            return known
        proto = bench.build(assignment)
        found = self.profile(assignment, proto)
        self._cache.put(alias, Archive({}, self._context(serialize(proto))))
        return found

    def _known(self, key: str, assignment: Mapping[str, Scheme]) -> Profile | None:
        """The timing of this key, if it is no older than `KEPT_S`."""
        known = self._cache.get(key, lambda entry: _read(entry, assignment))
        age_s = self._clock() - known[1] if known is not None else math.inf
        if known is None or not 0.0 <= age_s <= KEPT_S:
            return None
        if key not in self._own:
            self._ages_s.setdefault(key, age_s)
        return known[0].scaled(self.reference_s)

    def _measured(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> Profile:
        profile = self._profiler.profile(assignment, proto)
        self._timed += 1
        return profile

    def try_out(self, proto: onnx.ModelProto) -> None:
        self._profiler.try_out(proto)

    def settled(self, profiles: Sequence[Profile]) -> list[Profile]:
        return self._profiler.settled(profiles)

    def again_s(self, proto: onnx.ModelProto, limit_s: float | None = None) -> float:
        """Never from the cache: a second measurement is asked for because the first is in doubt."""
        return self._profiler.again_s(proto, limit_s)


def _content(bench: Workbench) -> str:
    """Hash of all that a model is built from, but for the assignment."""
    parts = {f"{key} {name}": weight for (key, name), weight in bench.weights.items()}
    return content_hash(model_hash(bench.model), bench.dialect.name, bench.activations, parts, bench.keep_io)


def _named(entry: Archive) -> str:
    """The key of a timing. Raises ValueError for something else."""
    if not isinstance(entry.meta, str):
        raise ValueError("not the key of a timing")
    return entry.meta


def _machine() -> str:
    """Of where time is taken."""
    return elsewhere() or machine_id()


def _entry(relative: Profile, now: float) -> Archive:
    """A profile in units of the fp32 model's time; the assignment is in the key, as the model it made."""
    times = {f.name: getattr(relative.times, f.name) for f in fields(relative.times)}
    times["operators"] = {region: sorted(types) for region, types in relative.operators.items()}
    return Archive(meta={"measured_at": now, "wall_s": relative.wall_s, "times": times})


def _read(entry: Archive, assignment: Mapping[str, Scheme]) -> tuple[Profile, float]:
    """The profile in units of the fp32 model's time, and when it was measured. Raises ValueError, KeyError or TypeError
    for anything else than `_entry` makes."""
    meta, times = entry.meta, dict(entry.meta["times"])
    operators = {str(region): frozenset(map(str, types)) for region, types in times.pop("operators").items()}
    by_name = {name: times.pop(name) for name in ("region_s", "tensor_s", "region_kernels", "tensor_kernels")}
    found = [
        meta["measured_at"],
        meta["wall_s"],
        *times.values(),
        *(v for row in by_name.values() for v in row.values()),
    ]
    if not all(is_number(value) and value >= 0 for value in found) or not meta["wall_s"] > 0:
        raise ValueError("times that are not numbers")
    profile = Profile(assignment, KernelTimes(**by_name, **times, operators=operators), float(meta["wall_s"]))
    return profile, float(meta["measured_at"])
