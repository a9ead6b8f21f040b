"""Candidates: the schemes that a target lists for each region and its dialect can spell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from onnxmpq.decoding import find_decoder
from onnxmpq.deployment import DeployCpu, deploy_cpu, scheme_for
from onnxmpq.dialects import Dialect
from onnxmpq.errors import TargetError
from onnxmpq.files import nearest
from onnxmpq.menu.filters import finite_weights, without_wrong_kernels
from onnxmpq.menu.patterns import Setting, asked_of, settings_of
from onnxmpq.menu.types import Menu
from onnxmpq.model import Model, Region, RegionKind, weights_inside
from onnxmpq.schemes import FP32, SCHEMES, Scheme, in_fitting_blocks, scheme_named
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
    patterns: Mapping[str, Sequence[str]] | None = None,
) -> Menu:
    """Schemes per region that the target lists and the dialect can spell; float32 always first.

    excluded: patterns of regions that stay in float32. requested: names of schemes that may be used, all where there
    are none. patterns: schemes that regions shall have, by pattern, whatever is requested (`menu.patterns`). cpu: the
    deployment CPU, for which schemes get their weight format (`deployment.scheme_for`); None for the default of
    `--deploy-cpu`. Raises UsageError, and TargetError for a scheme that the target does not list.
    """
    wanted, settings = frozenset(requested), settings_of(excluded, patterns or {})
    check_requested(wanted, target)
    for setting in settings:
        check_requested(frozenset(setting.schemes) - {FP32}, target)
    further = {*wanted, *(name for setting in settings for name in setting.schemes)}
    listed_for = {r.name: _listed(r, target, further) for r in model.regions}
    wide = dialect.in_float32(model)
    spelled = {
        r.name: [
            s for s in listed_for[r.name] if dialect.supports(r, s, model.opset) and not (s.half and r.name in wide)
        ]
        for r in model.regions
    }
    asked = asked_of(model, settings, {name: [s.name for s in row] for name, row in spelled.items()})
    cpu = deploy_cpu(DeployCpu.ANY, target) if cpu is None else cpu
    frozen = set(model.already_quantized)
    decoder = find_decoder(model.structure)
    cache = frozenset[str]() if decoder is None else decoder.tensors
    held = weights_inside(model.structure)
    menu: dict[str, tuple[Scheme, ...]] = {}
    reasons: dict[str, str] = {}
    for region in model.regions:
        allowed = asked.schemes.get(region.name, wanted)
        listed, offered = (
            [s for s in row[region.name] if (s.name in allowed if allowed else not s.variant_of)]
            for row in (listed_for, spelled)
        )
        if asked.schemes.get(region.name) == frozenset((FP32,)):
            offered, reasons[region.name] = [], _why_fp32(asked.settings[region.name])
        elif region.layer is None and cache.intersection((*region.inputs, *region.outputs)):
            offered, reasons[region.name] = [], "it reads or writes the key/value cache, which is left alone"
        elif region.name in frozen:
            reasons[region.name] = "already quantized"
        elif not offered and region.name in held:
            reasons[region.name] = f"{region.op_type} holds its weights itself, which no scheme reaches"
        elif not offered and region.kind is not RegionKind.FLOAT:
            forbidden = next((rule for s in listed if (rule := dialect.forbids(region, s))), wide.get(region.name, ""))
            what = forbidden or (f"{region.op_type} of this shape or opset" if listed else region.op_type)
            reasons[region.name] = f"target {target.name} has no scheme for {what}"
        menu[region.name] = (SCHEMES[FP32], *(scheme_for(region, s, cpu) for s in offered))
    for name in sorted(wanted - {s.name for row in menu.values() for s in row}):
        raise TargetError(_why_nowhere(scheme_named(name), model, target, dialect))
    return without_wrong_kernels(finite_weights(model, Menu(menu, reasons, asked)), target.runtime)


def _why_fp32(setting: Setting) -> str:
    return "excluded by the user" if setting.option == "--exclude" else f"set by the user ({setting.pattern})"


def _why_nowhere(scheme: Scheme, model: Model, target: Target, dialect: Dialect) -> str:
    """Why no region of the model can have a scheme that the target offers."""
    listed = [r for r in model.regions if scheme in _listed(r, target, {scheme.name})]
    if any(dialect.supports(r, scheme, NEWEST_OPSET) for r in listed):
        return f"opset {model.opset} does not have the types of '{scheme.name}'; convert with opset {NEWEST_OPSET}"
    rules = Counter(rule for r in listed if (rule := dialect.forbids(r, scheme)))
    why = "".join(f": it does not take {rule} (as in {count} of them)" for rule, count in rules.most_common(1))
    return f"no layer of the model can have '{scheme.name}' on target {target.name}{why}; use another scheme"


def check_requested(requested: frozenset[str], target: Target) -> None:
    """Raises UsageError for a name that is no scheme, TargetError for a scheme that the target does not offer."""
    offered = {name for menus in (target.menu, target.activation_menu) for row in menus.values() for name in row}
    for name in sorted(requested):
        if (scheme_named(name).variant_of or name) not in offered:
            raise TargetError(
                f"target {target.name} does not offer '{name}'; {nearest(name, sorted(offered), 'it has')}"
            )


def _listed(region: Region, target: Target, further: Collection[str]) -> list[Scheme]:
    """Schemes that the target has for the region, those of blocks also in blocks that fit its rows.

    further: names that the user gave; variants count too.
    """
    menu = target.menu if region.layer is not None else target.activation_menu
    names = menu.get(region.op_type, ())
    made = (scheme_named(name) for name in sorted(set(further) - set(names)))
    listed = [scheme_named(name) for name in names if name != FP32]
    if region.layer is not None:
        fitting = [(s, in_fitting_blocks(s, region.layer.fan_in)) for s in listed if s.accuracy_level is not None]
        listed = list({s.name: s for s in (*listed, *(other for s, other in fitting if other != s))}.values())
    listed += [s for s in made if s.variant_of in names and s.name not in {known.name for known in listed}]
    if region.kind is RegionKind.FLOAT:
        return [s for s in listed if s.half is not None]
    if target.unfolds_weights and region.layer is not None and region.layer.mean_fan_in < FEWEST_INPUTS_FOR_BLOCKS:
        return [s for s in listed if s.weight is None or s.weight.bits == 8]
    return listed
