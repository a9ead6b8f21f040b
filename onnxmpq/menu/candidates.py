"""Candidates: the schemes that a target lists for each region and its dialect can spell."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable

from onnxmpq.deployment import DeployCpu, deploy_cpu, scheme_for
from onnxmpq.dialects import Dialect
from onnxmpq.errors import TargetError, UsageError
from onnxmpq.menu.filters import finite_weights
from onnxmpq.menu.types import Menu
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.schemes import FP32, SCHEMES, Scheme, scheme_named
from onnxmpq.target import Target

FEWEST_INPUTS_FOR_BLOCKS = (
    16  # below, as in depthwise kernels, scales outweigh the bytes that fewer bits save in a file
)
NEWEST_OPSET = 21  # that any scheme needs


def candidates(
    model: Model,
    target: Target,
    dialect: Dialect,
    excluded: Iterable[str] = (),
    requested: Iterable[str] = (),
    cpu: DeployCpu | None = None,
) -> Menu:
    """Schemes per region that the target lists and the dialect can spell; float32 always first.

    requested: names of schemes that may be used, all where there are none. cpu: the deployment CPU, for which schemes
    get their weight format (`deployment.scheme_for`); None for the default of `--deploy-cpu`. Raises UsageError, and
    TargetError for a requested scheme that the target does not list.
    """
    left_out, wanted = matching_regions(model, excluded), frozenset(requested)
    check_requested(wanted, target)
    cpu = deploy_cpu(DeployCpu.ANY, target) if cpu is None else cpu
    frozen = set(model.already_quantized)
    menu: dict[str, tuple[Scheme, ...]] = {}
    reasons: dict[str, str] = {}
    for region in model.regions:
        listed = [s for s in _listed(region, target) if not wanted or s.name in wanted]
        offered = [s for s in listed if dialect.supports(region, s, model.opset)]
        if region.name in left_out:
            offered, reasons[region.name] = [], "excluded by the user"
        elif region.name in frozen:
            reasons[region.name] = "already quantized"
        elif not offered and region.kind is not RegionKind.FLOAT:
            forbidden = next((rule for s in listed if (rule := dialect.forbids(region, s))), "")
            what = forbidden or (f"{region.op_type} of this shape or opset" if listed else region.op_type)
            reasons[region.name] = f"target {target.name} has no scheme for {what}"
        menu[region.name] = (SCHEMES[FP32], *(scheme_for(region, s, cpu) for s in offered))
    for name in sorted(wanted - {s.name for row in menu.values() for s in row}):
        raise TargetError(_why_nowhere(scheme_named(name), model, target, dialect))
    return finite_weights(model, Menu(menu, reasons))


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


def _listed(region: Region, target: Target) -> list[Scheme]:
    menu = target.menu if region.layer is not None else target.activation_menu
    listed = [scheme_named(name) for name in menu.get(region.op_type, ()) if name != FP32]
    if region.kind is RegionKind.FLOAT:
        return [s for s in listed if s.half is not None]
    if target.unfolds_weights and region.layer is not None and region.layer.mean_fan_in < FEWEST_INPUTS_FOR_BLOCKS:
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
