"""Candidates: which schemes each region may have on a target, before and after the runtime has proved them."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxmpq.deployment import DeployCpu, deploy_cpu, scheme_for
from onnxmpq.dialects import Dialect
from onnxmpq.errors import TargetError, UsageError
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import FP32, INT8_KERNELS, SCHEMES, Format, Scheme, scheme_named
from onnxmpq.target.types import Target

FEWEST_INPUTS_FOR_BLOCKS = (
    16  # below, as in depthwise kernels, scales outweigh the bytes that fewer bits save in a file
)
NEWEST_OPSET = 21  # that any scheme needs
PREFERRED = (Format.FP8, Format.SYMMETRIC_INT8, Format.INT8)  # fp8 bears outliers better
ABOUT_AS_MANY = 0.9
LARGEST_FLOAT16 = 65504.0
FLOAT16_MARGIN = 4.0  # other samples may reach further than those that were seen
BOUND_LOSS_DB = 2.0  # docs/overflow.md has the losses of the zoo's layers
Menu = dict[str, tuple[Scheme, ...]]
Reasons = dict[str, str]  # region -> why it has nothing but float32


def candidates(
    model: Model,
    target: Target,
    dialect: Dialect,
    excluded: Iterable[str] = (),
    requested: Iterable[str] = (),
    cpu: DeployCpu | None = None,
) -> tuple[Menu, Reasons]:
    """Schemes per region that the target lists and the dialect can spell; float32 always first.

    requested: names of schemes that may be used, all where there are none. cpu: the deployment CPU, for which schemes
    get their weight format (`deployment.scheme_for`); None for the default of `--deploy-cpu`. Raises UsageError, and
    TargetError for a requested scheme that the target does not list.
    """
    left_out, wanted = matching_regions(model, excluded), frozenset(requested)
    check_requested(wanted, target)
    cpu = deploy_cpu(DeployCpu.ANY, target) if cpu is None else cpu
    frozen = set(model.already_quantized)
    menu: Menu = {}
    reasons: Reasons = {}
    for region in model.regions:
        listed = [s for s in _listed(region, target) if not wanted or s.name in wanted]
        offered = [s for s in listed if dialect.supports(region, s, model.opset)]
        if region.name in left_out:
            offered, reasons[region.name] = [], "excluded by the user"
        elif region.name in frozen:
            reasons[region.name] = "already quantized"
        elif not offered and region.kind is not RegionKind.FLOAT:
            forbidden = next((rule for s in listed if (rule := dialect.forbids(region, s))), "")
            what = forbidden or f"{region.op_type} of this shape or opset"
            reasons[region.name] = f"target {target.name} has no scheme for {what}"
        menu[region.name] = (SCHEMES[FP32], *(scheme_for(region, s, cpu) for s in offered))
    for name in sorted(wanted - {s.name for row in menu.values() for s in row}):
        raise TargetError(_why_nowhere(scheme_named(name), model, target, dialect))
    return menu, reasons


def _why_nowhere(scheme: Scheme, model: Model, target: Target, dialect: Dialect) -> str:
    """Why no region of the model can have a scheme that the target offers."""
    listed = [r for r in model.regions if scheme in _listed(r, target)]
    if any(dialect.supports(r, scheme, NEWEST_OPSET) for r in listed):
        return f"opset {model.opset} does not have the types of '{scheme.name}'; convert with opset {NEWEST_OPSET}"
    rules = Counter(rule for r in listed if (rule := dialect.forbids(r, scheme)))
    why = "".join(f": it does not take {rule} (as in {count} of them)" for rule, count in rules.most_common(1))
    return f"no layer of the model can have '{scheme.name}' on target {target.name}{why}; use another scheme"


def check_requested(requested: frozenset[str], target: Target) -> None:
    """Raises UsageError for a name that is no scheme, TargetError for a scheme that the target does not offer."""
    offered = {name for menus in (target.menu, target.activation_menu) for row in menus.values() for name in row}
    for name in sorted(requested):
        scheme_named(name)
        if name not in offered:
            raise TargetError(f"target {target.name} does not offer '{name}'; it has {', '.join(sorted(offered))}")


def one_activation_format(model: Model, menu: Menu) -> Menu:
    """The menu with one format of quantized activations, since each tensor has one set of parameters: the one that
    reaches most multiply-accumulates, and of those that reach about as many the first of `PREFERRED`."""
    reach: dict[Format, int] = {}
    for region in model.regions:
        macs = (region.layer.macs or region.layer.parameters) if region.layer else 0
        for read in dict.fromkeys(s.reads for s in menu[region.name] if s.reads.quantized):
            reach[read] = reach.get(read, 0) + macs
    enough = ABOUT_AS_MANY * max(reach.values(), default=0)
    best = next((read for read in PREFERRED if read in reach and reach[read] >= enough), Format.FLOAT)
    return {name: tuple(s for s in row if not s.reads.quantized or s.reads is best) for name, row in menu.items()}


def within_float16(model: Model, menu: Menu, histograms: Mapping[str, Histogram]) -> tuple[Menu, Reasons]:
    """The menu without float16 where a tensor of the region comes near the largest float16, and without bfloat16,
    which is less exact, where float16 will do."""
    roots, kept, reasons = model.roots, dict[str, tuple[Scheme, ...]](), Reasons()
    for region in model.regions:
        seen = [histograms[r] for t in (*region.inputs, *region.outputs) if (r := roots.get(t, t)) in histograms]
        reach = max((max(-h.low, h.high) for h in seen), default=0.0)
        fits, row = reach * FLOAT16_MARGIN <= LARGEST_FLOAT16, menu[region.name]
        computes = any(s.half == "float16" and not s.reads.quantized for s in row)
        left_out = {"float16"} if not fits else {"bfloat16"} if computes else set()
        kept[region.name] = tuple(s for s in row if s.half is None or s.half not in left_out)
        if not fits and any(s.half == "float16" for s in row) and len(kept[region.name]) == 1:
            reasons[region.name] = f"values up to {reach:.3g} do not fit float16"
    return kept, reasons


def without_underflow(
    model: Model, menu: Menu, weights: Mapping[tuple[str, str], QuantizedWeight]
) -> tuple[Menu, Reasons]:
    """The menu without formats in which a channel that is not zero becomes zero, as on a scale that is too small."""
    kept: Menu = dict(menu)
    reasons: Reasons = {}
    for region in model.layers:
        channels = np.abs(model.weight(region)).max(axis=1, initial=0) > 0
        lost = {
            s.name
            for s in menu[region.name]
            if s.weight is not None and not s.weight.linear
            if (channels & ~weights[region.name, s.weight.name].dequantize().any(axis=1)).any()
        }
        kept[region.name] = tuple(s for s in menu[region.name] if s.name not in lost)
        if lost and len(kept[region.name]) == 1:
            reasons[region.name] = f"the weights of a channel underflow in {' and '.join(sorted(lost))}"
    return kept, reasons


def needing_unsigned_weights(
    model: Model,
    menu: Menu,
    weights: Mapping[tuple[str, str], QuantizedWeight],
    *,
    bounded: bool,
    requested: Collection[str] = (),
) -> Menu:
    """The menu with uint8 weights only for layers whose int8 weights lose more than `BOUND_LOSS_DB` by the bound.

    Kernels of uint8 weights do not saturate, but are slower on most CPUs, and every kernel on the menu takes time to
    profile. weights: by (region, weight format). bounded: whether int8
    weights must obey the bound of `rounding/overflow.py`; if not, int8 computes the same and faster, and no layer needs
    uint8. requested: schemes that the user asked for by name, which stay.
    """
    kept: Menu = {}
    for region in model.regions:
        kept[region.name] = tuple(
            s
            for s in menu[region.name]
            if not s.unsigned_weights
            or s.name in requested
            or (bounded and bound_loss_db(model, region, s, weights) > BOUND_LOSS_DB)
        )
    return kept


def bound_loss_db(
    model: Model, region: Region, scheme: Scheme, weights: Mapping[tuple[str, str], QuantizedWeight]
) -> float:
    """How much SQNR the layer's weight loses by the bound, as rounded in `weights`; 0 where no int8 scheme needs it."""
    if scheme.weight is None:
        return 0.0
    bounded = weights.get((region.name, scheme.weight.without_saturation.name))
    if bounded is None:
        return 0.0
    w, full = model.weight(region), weights[region.name, scheme.weight.name]
    kept, lost = (float(np.square(w - q.dequantize(), dtype=np.float64).sum()) for q in (full, bounded))
    if lost <= kept:
        return 0.0
    return 10.0 * math.log10(lost / kept) if kept > 0.0 else math.inf


def _listed(region: Region, target: Target) -> list[Scheme]:
    menu = target.menu if region.layer is not None else target.activation_menu
    listed = [scheme_named(name) for name in menu.get(region.op_type, ()) if name != FP32]
    if region.kind is RegionKind.FLOAT:
        return [s for s in listed if s.half is not None]
    if target.cost == "measured" and region.layer is not None and region.layer.fan_in < FEWEST_INPUTS_FOR_BLOCKS:
        return [s for s in listed if s.weight is None or s.weight.bits == 8]
    return listed


def matching_regions(model: Model, patterns: Iterable[str]) -> frozenset[str]:
    """Regions whose own or original node names match a name, glob, or /regex/. Raises UsageError for no match."""
    found: set[str] = set()
    for pattern in patterns:
        hits = {r.name for r in model.regions for n in _names(model, r) if _matches(n, pattern)}
        if not hits:
            raise UsageError(f"--exclude {pattern!r} matches no node; `onnxmpq inspect` lists the names")
        found |= hits
    return frozenset(found)


def _names(model: Model, region: Region) -> list[str]:
    return [original for node in region.nodes for original in (node, *model.origin.get(node, ()))]


def _matches(name: str, pattern: str) -> bool:
    if len(pattern) > 2 and pattern[0] == pattern[-1] == "/":
        try:
            return re.search(pattern[1:-1], name) is not None
        except re.error as error:
            raise UsageError(f"--exclude {pattern!r}: not a regular expression ({error})") from None
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


class ProfiledPlan(Protocol):
    """assignment: region -> scheme. operators: region -> operators that the runtime made of it."""

    @property
    def assignment(self) -> Mapping[str, Scheme]: ...

    @property
    def operators(self) -> Mapping[str, frozenset[str]]: ...


def proven(
    model: Model, menu: Mapping[str, Sequence[Scheme]], profiles: Sequence[ProfiledPlan]
) -> tuple[Menu, Reasons]:
    """The menu without schemes that the runtime did not fuse wherever a profiled plan used their kernel."""
    kept: Menu = {}
    reasons: Reasons = {}
    regions = {r.name: r for r in model.regions}
    for name, schemes in menu.items():
        good = tuple(s for s in schemes if s.is_float or _fused(regions[name], s, profiles))
        kept[name] = good
        missing = [s.name for s in schemes if s not in good]
        if missing and len(good) == 1:
            reasons[name] = f"onnxruntime does not fuse {', '.join(missing)} here"
    return kept, reasons


def _fused(region: Region, scheme: Scheme, profiles: Sequence[ProfiledPlan]) -> bool:
    wanted = scheme.fuses_to if region.layer is not None else INT8_KERNELS.get(region.op_type, ())
    if not wanted or scheme.kernel == FP32:
        return True
    used = [p for p in profiles if (s := p.assignment.get(region.name)) is not None and s.kernel == scheme.kernel]
    return any(set(wanted) & p.operators.get(region.name, frozenset()) for p in used)


def worthwhile(menu: Menu, kernel_s: Mapping[str, Mapping[str, float]]) -> Menu:
    """The menu without float-activation schemes whose own kernel is no faster than float32's: w4 and w8 store as
    little, compute exactly, and run at float32's speed.

    kernel_s: region -> kernel -> seconds.
    """
    kept: Menu = {}
    for name, schemes in menu.items():
        costs = kernel_s.get(name, {})
        kept[name] = tuple(
            s
            for s in schemes
            if s.kernel == FP32 or s.reads is not Format.FLOAT or costs.get(s.kernel, 0.0) < costs.get(FP32, 0.0)
        )
    return kept
