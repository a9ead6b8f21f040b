"""Candidates: which schemes each region may have on a target, before and after the runtime has proved them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from onnxmpq.cost.measure import Profile
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import Supports
from onnxmpq.errors import UsageError
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.schemes import FP32, INT8_KERNELS, SCHEMES, Format, Scheme, scheme_named
from onnxmpq.target.types import Target

FEWEST_INPUTS_FOR_4_BITS = 16  # below, as in depthwise kernels, scales outweigh the bytes that int4 saves in a file
Menu = dict[str, tuple[Scheme, ...]]
Reasons = dict[str, str]  # region -> why it has nothing but float32


def candidates(model: Model, target: Target, supports: Supports, excluded: Iterable[str] = ()) -> tuple[Menu, Reasons]:
    """Schemes per region that the target lists and the dialect can spell; float32 always first."""
    left_out = matching_regions(model, excluded)
    frozen = set(model.already_quantized)
    menu: Menu = {}
    reasons: Reasons = {}
    for region in model.regions:
        offered = [s for s in _listed(region, target) if supports(region, s, model.opset)]
        if region.name in left_out:
            offered, reasons[region.name] = [], "excluded by the user"
        elif region.name in frozen:
            reasons[region.name] = "already quantized"
        elif not offered and region.kind is not RegionKind.FLOAT:
            reasons[region.name] = f"target {target.name} has no scheme for {region.op_type} of this shape or opset"
        menu[region.name] = (SCHEMES[FP32], *offered)
    return menu, reasons


def _listed(region: Region, target: Target) -> list[Scheme]:
    if region.kind is RegionKind.FLOAT:
        return []
    menu = target.menu if region.layer is not None else target.activation_menu
    listed = [scheme_named(name) for name in menu.get(region.op_type, ()) if name != FP32]
    if target.cost == "measured" and region.layer is not None and region.layer.fan_in < FEWEST_INPUTS_FOR_4_BITS:
        return [s for s in listed if s.weight is None or s.weight.bits > 4]
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


def proven(model: Model, menu: Mapping[str, Sequence[Scheme]], profiles: Sequence[Profile]) -> tuple[Menu, Reasons]:
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


def _fused(region: Region, scheme: Scheme, profiles: Sequence[Profile]) -> bool:
    wanted = scheme.fuses_to if region.layer is not None else INT8_KERNELS.get(region.op_type, ())
    if not wanted or scheme.kernel == FP32:
        return True
    used = [p for p in profiles if (s := p.assignment.get(region.name)) is not None and s.kernel == scheme.kernel]
    return any(set(wanted) & p.operators.get(region.name, frozenset()) for p in used)


def worthwhile(menu: Menu, table: CostTable) -> Menu:
    """The menu without float-activation schemes whose own kernel is no faster than float32's: w4 and w8 store as
    little, compute exactly, and run at float32's speed."""
    kept: Menu = {}
    for name, schemes in menu.items():
        costs = table.node_s.get(name, {})
        kept[name] = tuple(
            s
            for s in schemes
            if s.kernel == FP32 or s.reads is not Format.FLOAT or costs.get(s.kernel, 0.0) < costs.get(FP32, 0.0)
        )
    return kept
