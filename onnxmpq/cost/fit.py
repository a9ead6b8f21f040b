"""From profiles of whole plans to a cost table: small least-squares problems, one per region and one per tensor.

A region's time depends on its own kernel and, through fusion and layout, on whether its neighbours hand over another
format than it works in: time = own[kernel] + Σ mismatch[edge, direction]. A tensor's movers likewise depend on the
formats at its ends. Mismatch terms are shrunk toward zero (ridge); own terms are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.cost.layout import Layouts
from onnxmpq.cost.measure import Profile
from onnxmpq.cost.table import CostTable, Edge, Formats, Transition, edges_of
from onnxmpq.model import Model
from onnxmpq.runtimes import Rules
from onnxmpq.schemes import Format, hands_on_float

_RIDGE = 0.2  # of one observation's weight: enough to decide between collinear terms
_DISTURBED = 0.05  # a profile further off its own wall clock met other work on the machine
_TELLING = 0.1  # of fp32's wall clock, by which a plan has to differ to tell how that follows profiled times
_PLAUSIBLE = (0.2, 2.0)
_NOISE = 0.02  # of a profile beside its own wall clock, where nothing disturbs
_FACTOR, _OVERHEAD_US, _OVERHEAD_SHARE = 0.3, 3.0, 0.3
"""How far the factor usually is from 1, and the overhead of a kernel from 0: so many microseconds, and so much of what
a kernel takes."""
_COMPARABLE = 0.2  # of fp32's profiled time, in kernels that a plan leaves alone, to tell how fast its profiled run was
Feature = tuple[str, str, str]  # (what, key, direction)


def fit(
    model: Model,
    profiles: Sequence[Profile],
    meta: dict[str, str],
    weights: Sequence[float] = (),
    rules: Rules | None = None,
) -> CostTable:
    """A cost table that explains the profiles; `weights` (default 1) let some profiles count more.

    rules: of the runtime; None for none.
    """
    rules = rules or Rules()
    weight = np.sqrt(np.asarray(weights or [1.0] * len(profiles)))
    edges = edges_of(model)
    views = [_View(p, Formats(model, p.assignment), Layouts(model, rules.layout, p.assignment)) for p in profiles]
    plain = next((v for v in views if not v.profile.assignment), None)
    if plain is not None:
        views = [_at_speed_of(plain, v, [r.name for r in model.regions], edges) for v in views]
    profiles = [v.profile for v in views]
    clock = Clock.of(profiles, plain.profile if plain is not None else None)
    terms: dict[Feature, float] = defaultdict(float)
    for region in model.regions:
        near = [e for e in edges if region.name in (e.producer, e.consumer)]
        rows = [_region_features(region.name, near, v) for v in views]
        times = [
            clock.wall_s(p, p.times.region_s.get(region.name, 0.0), p.times.region_kernels.get(region.name, 0))
            for p in profiles
        ]
        _accumulate(terms, rows, times, weight)
    by_tensor: dict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        by_tensor[edge.tensor].append(edge)
    for tensor, group in by_tensor.items():
        rows = [_tensor_features(group, v) for v in views]
        times = [
            clock.wall_s(p, p.times.tensor_s.get(tensor, 0.0), p.times.tensor_kernels.get(tensor, 0)) for p in profiles
        ]
        _accumulate(terms, rows, times, weight)
    other = float(np.mean([clock.wall_s(p, p.times.other_s, p.times.other_kernels) for p in profiles]))
    writes = {s.kernel: s.writes for p in profiles for s in p.assignment.values()}
    return replace(_table(model, terms, writes, other, meta), rules=rules)


@dataclass(frozen=True)
class Clock:
    """From profiled kernel times to shares of the wall clock: wall ≈ factor · Σ kernel times + overhead · kernels.

    The overhead may be negative: the profiler lengthens every kernel a little, and the executor spends time between
    kernels that the profiler does not see. What a profile then is off from its own wall clock, measured interleaved
    with the fp32 model and so the steadier of the two, is taken for a slow or fast moment of the machine.
    """

    factor: float
    overhead_s: float

    @classmethod
    def of(cls, profiles: Sequence[Profile], plain: Profile | None = None) -> Clock:
        """Least squares on relative errors, reweighted three times so that disturbed profiles count little.

        plain: the fp32 model's. Plans of the same formats tell the factor alone, where some are much faster: in models
        of kernels of a microsecond the profiler's own time is most of what it measures, and hides it in other plans.
        """
        relative = _relative(profiles)
        factor = None if plain is None else _factor(profiles, plain)
        trust = np.ones(len(profiles))
        for _ in range(3):
            solution = _solved(relative * trust[:, None], trust, profiles, factor)
            trust = 1.0 / (1.0 + np.square((relative @ solution - 1.0) / _DISTURBED))
        return cls(float(solution[0]), float(solution[1]) * 1e-6)

    def wall_s(self, profile: Profile, kernel_s: float, kernels: int) -> float:
        """The share of the profile's wall clock that these kernels have."""
        explained = self.factor * profile.kernel_s + self.overhead_s * profile.kernels
        moment = float(np.clip(profile.wall_s / explained, 0.5, 2.0)) if explained > 0 else 1.0
        return (self.factor * kernel_s + self.overhead_s * kernels) * moment


def _factor(profiles: Sequence[Profile], plain: Profile) -> float | None:
    """Share of the profiled time of kernels that the wall clock sees, by least squares over plans that move no tensor
    from one format to another; None where none of them differs enough from float32."""
    alike = [p for p in profiles if not any(p.times.tensor_kernels.values())]
    wall, kernels = np.array([p.wall_s for p in alike]), np.array([p.kernel_s for p in alike])
    if len(alike) < 2 or not np.ptp(kernels) or np.abs(wall - plain.wall_s).max() < _TELLING * plain.wall_s:
        return None
    factor = float(_solved(_relative(alike), np.ones(len(alike)), alike)[0])
    return factor if _PLAUSIBLE[0] < factor < _PLAUSIBLE[1] else None


def _relative(profiles: Sequence[Profile]) -> NDArray[np.float64]:
    """float64 [profiles, 2]: profiled time in seconds and kernels in millions, over the wall clock."""
    return np.array([[p.kernel_s / p.wall_s, p.kernels * 1e-6 / p.wall_s] for p in profiles])


def _solved(
    design: NDArray[np.float64], wall: NDArray[np.float64], profiles: Sequence[Profile], factor: float | None = None
) -> NDArray[np.float64]:
    """Factor, or the one that is given, and overhead in microseconds, by least squares.

    Ridge regression toward what they are where nothing disturbs: plans that take about the same time, with as many
    kernels, do not tell one from the other.
    """
    spread = _OVERHEAD_US + _OVERHEAD_SHARE * 1e6 * float(np.mean([p.wall_s / max(p.kernels, 1) for p in profiles]))
    usual = 1.0 if factor is None else factor
    ridge = np.diag([_NOISE / (_FACTOR if factor is None else 1e-9), _NOISE / spread])
    found, *_ = np.linalg.lstsq(np.vstack([design, ridge]), np.append(wall, [ridge[0, 0] * usual, 0.0]), rcond=None)
    return np.asarray(found)


@dataclass(frozen=True)
class _View:
    """A profile with the formats and layouts that its plan gives to every tensor."""

    profile: Profile
    formats: Formats
    layouts: Layouts

    def changes(self, edge: Edge) -> list[str]:
        """Transitions of a tensor on an edge: at most a change of format and a change of layout."""
        written, read = self.formats.written(edge.producer), self.formats.read(edge.consumer)
        found = [self.layouts.change(edge.producer, edge.consumer)]
        if written is not read:
            found.append("quantize" if read.quantized else "dequantize")
        return [c for c in found if c]


def _at_speed_of(plain: _View, view: _View, regions: Sequence[str], edges: Sequence[Edge]) -> _View:
    """The profile with kernel times as in the run that `plain` is from: kernels that the plan leaves alone, with what
    they read and write, take the same time."""
    touched = {r for e in edges if view.changes(e) for r in (e.producer, e.consumer)} | set(view.profile.assignment)
    own, other = view.profile.times, plain.profile.times
    same = [r for r in regions if r not in touched and own.region_kernels.get(r) == other.region_kernels.get(r)]
    mine, theirs = (sum(times.region_s.get(r, 0.0) for r in same) for times in (own, other))
    if view is plain or mine <= 0 or theirs < _COMPARABLE * plain.profile.kernel_s:
        return view
    return replace(view, profile=replace(view.profile, times=own.scaled(theirs / mine)))


def _region_features(name: str, near: Sequence[Edge], view: _View) -> list[Feature]:
    scheme = view.profile.assignment.get(name)
    own: Feature = ("node", name, scheme.kernel if scheme else "fp32")
    return [own, *(("edge", e.key, change) for e in near for change in view.changes(e))]


def _tensor_features(group: Sequence[Edge], view: _View) -> list[Feature]:
    features: list[Feature] = [("made", group[0].producer or "", view.formats.written(group[0].producer))]
    features += [("edge", e.key, change) for e in group for change in view.changes(e)]
    if len(group) > 1:
        changes = dict.fromkeys(c for e in group for c in view.changes(e) if c in ("quantize", "dequantize"))
        features += [("shared", group[0].tensor, change) for change in changes]
    return features


def _accumulate(
    terms: dict[Feature, float],
    rows: Sequence[Sequence[Feature]],
    times: Sequence[float],
    weight: NDArray[np.float64],
) -> None:
    """Ridge regression of `times` on indicator features; adds the coefficients to `terms`."""
    columns = list(dict.fromkeys(f for row in rows for f in row))
    position = {f: i for i, f in enumerate(columns)}
    design = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for feature in row:
            design[i, position[feature]] = 1.0
    penalty = np.diag([0.0 if f[0] in ("node", "made") else np.sqrt(_RIDGE) for f in columns])
    left = np.vstack([design * weight[:, None], penalty])
    right = np.concatenate([np.asarray(times) * weight, np.zeros(len(columns))])
    solution, *_ = np.linalg.lstsq(left, right, rcond=None)
    for feature, value in zip(columns, solution, strict=True):
        terms[feature] += float(value)


def _table(
    model: Model, terms: dict[Feature, float], writes: Mapping[str, Format], other_s: float, meta: dict[str, str]
) -> CostTable:
    """writes: kernel -> the format of its result, where the operator's result is not always float."""
    node_s: dict[str, dict[str, float]] = defaultdict(dict)
    transitions: dict[str, dict[str, dict[str, float]]] = {"edge": defaultdict(dict), "shared": defaultdict(dict)}
    base_s = other_s
    for (what, key, direction), seconds in terms.items():
        if what == "node":
            node_s[key][direction] = node_s[key].get(direction, 0.0) + seconds
        elif what in transitions:
            least = 0.0 if what == "shared" else -np.inf
            transitions[what][key][f"{direction}_s"] = max(seconds, least)
    ops = {r.name: r.op_type for r in model.regions}
    for (what, key, written), seconds in terms.items():
        if what != "made":
            continue
        if not key:
            base_s += seconds
            continue
        for kernel in node_s[key]:
            makes = Format.FLOAT if hands_on_float(ops[key]) else writes.get(kernel, Format.FLOAT)
            if makes == written:
                node_s[key][kernel] += seconds
    return CostTable(
        {region: {k: max(s, 0.0) for k, s in costs.items()} for region, costs in node_s.items()},
        {k: Transition(**v) for k, v in transitions["shared"].items()},
        {k: Transition(**v) for k, v in transitions["edge"].items()},
        base_s,
        meta,
    )
