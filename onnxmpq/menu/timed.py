"""Filters of a menu from timed plans and cost tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from onnxmpq.menu.types import Menu
from onnxmpq.model import Model, Region
from onnxmpq.runtimes import Runtime
from onnxmpq.schemes import FP32, Format, Scheme


class ProfiledPlan(Protocol):
    """assignment: region -> scheme. operators: region -> operators that the runtime made of it."""

    @property
    def assignment(self) -> Mapping[str, Scheme]: ...

    @property
    def operators(self) -> Mapping[str, frozenset[str]]: ...


def proven(
    model: Model,
    menu: Menu,
    profiles: Sequence[ProfiledPlan],
    runtime: Runtime,
    crashing: Mapping[str, Collection[str]] | None = None,
) -> Menu:
    """The menu without schemes that the runtime did not fuse wherever a profiled plan used their kernel.

    crashing: region -> kernels that end the runtime there; their schemes go too.
    """
    crashing = crashing or {}
    runs = menu.where(lambda name, s: s.is_fp32 or s.kernel not in crashing.get(name, ()))
    regions = {r.name: r for r in model.regions}
    kept = runs.where(lambda name, s: s.is_fp32 or _fused(regions[name], s, profiles, runtime))
    reasons: dict[str, str] = {}
    for name, row in kept.items():
        missing = [s.name for s in runs[name] if s not in row]
        if missing and len(row) == 1:
            reasons[name] = f"{runtime.name} does not fuse {', '.join(missing)} here"
    for name, kernels in crashing.items():
        reasons[name] = f"{runtime.name} crashes with {', '.join(sorted(kernels))} here"
    return menu.but(kept.rows, reasons)


def _fused(region: Region, scheme: Scheme, profiles: Sequence[ProfiledPlan], runtime: Runtime) -> bool:
    """True where some profiled plan shows it, or where nothing has to be shown."""
    used = [p for p in profiles if (s := p.assignment.get(region.name)) is not None and s.kernel == scheme.kernel]
    seen = [frozenset[str](), *(p.operators.get(region.name, frozenset()) for p in used)]
    return any(runtime.fuses(region, scheme, operators) for operators in seen)


def in_table(menu: Menu, offers: Callable[[str, Scheme], bool]) -> Menu:
    """The menu with what a cost table has: `offers(region, scheme)`."""
    return menu.where(lambda name, s: s.is_fp32 or offers(name, s))


def worthwhile(menu: Menu, kernel_s: Mapping[str, Mapping[str, float]], lookups: Collection[str] = ()) -> Menu:
    """The menu without float-activation schemes whose own kernel is no faster than float32's, where another one on it
    stores as little: w4 and w8 compute exactly, and run at float32's speed. Nor does a kernel that rounds activations
    stay where the same weights are multiplied with floats as fast.

    kernel_s: region -> kernel -> seconds. lookups: regions that keep kernels that are slower, since they keep a table
    narrow in memory and may share it with the layer that multiplies with it.
    """

    def stays(name: str, scheme: Scheme) -> bool:
        costs = kernel_s.get(name, {})
        own, plain = costs.get(scheme.kernel, 0.0), costs.get(FP32, 0.0)
        if scheme.kernel == FP32 or scheme.reads is not Format.FLOAT or name in lookups:
            return True
        faster_than = [costs[k] for k in exact_twins(name, scheme) if k in costs]
        return own < min(faster_than + [plain] * unfolded(name, scheme), default=math.inf)

    def unfolded(name: str, scheme: Scheme) -> bool:
        """True if the menu has weights in no more bits that float32's kernel multiplies."""
        return scheme.weight is None or any(
            s.weight is not None and s.kernel == FP32 and s.weight.storage_bits <= scheme.weight.storage_bits
            for s in menu[name]
        )

    def exact_twins(name: str, scheme: Scheme) -> list[str]:
        if not scheme.rounds_inside:
            return []
        return [s.kernel for s in menu[name] if s.weight == scheme.weight and s.weight_only and not s.rounds_inside]

    return menu.preferring(stays)


def used_when_fastest(model: Model, menu: Menu, used: Collection[str]) -> Menu:
    """The menu, with int8 for regions without weights only where the fastest plans use it.

    Such a scheme stores nothing; it is there for speed alone, and is dropped before its effect on the outputs is
    measured. used: regions that are quantized in the fastest plans.
    """
    layers = {r.name for r in model.layers}
    return menu.preferring(lambda name, s: name in layers or s.is_fp32 or name in used)
