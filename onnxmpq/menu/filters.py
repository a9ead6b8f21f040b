"""Filters of a menu from what is known before anything is timed: goals, ranges and rounded weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from onnxmpq.errors import UsageError
from onnxmpq.menu.types import Menu
from onnxmpq.model import Model, Region
from onnxmpq.ranges import Histogram
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.runtimes import Runtime
from onnxmpq.schemes import FP32, Format, Scheme

PREFERRED = (Format.FP8, Format.SYMMETRIC_INT8, Format.INT8)  # fp8 bears outliers better
ABOUT_AS_MANY = 0.9
LARGEST_FLOAT16 = 65504.0
FLOAT16_MARGIN = 4.0  # other samples may reach further than those that were seen
IDLE_BITS = 8  # nearly exact for any weight, whatever reads it
BOUND_LOSS_DB = 2.0  # docs/overflow.md has the losses of the zoo's layers


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
    best = _format_asked_for(menu) or best
    return menu.where(lambda _, s: not s.reads.quantized or s.reads is best)


def _format_asked_for(menu: Menu) -> Format | None:
    """Of the activations of schemes that the user set. Raises UsageError for several."""
    found: dict[Format, str] = {}
    for name in filter(menu.requires, menu):
        formats = {s.reads for s in menu[name] if not s.is_fp32}
        if len(formats) == 1 and next(iter(formats)).quantized:
            found.setdefault(next(iter(formats)), name)
    if len(found) > 1:
        where = " and ".join(f"{read.value} at {name}" for read, name in found.items())
        raise UsageError(f"--set asks for {where}; a plan has one format of quantized activations, set one of them")
    return next(iter(found), None)


def for_goal(menu: Menu, *, small: bool, fast: bool) -> Menu:
    """The menu of a measured target for what is asked. small: a size counts. fast: latency or energy counts.

    For size alone, float activations: w4 and w8 keep float32's latency and lose less than int8 arithmetic. Where size
    does not count, no weights of fewer bits than others of the same kernel. Where the user set int8 somewhere, the
    operators around it keep the choice, since their kernels are one chain.
    """
    if not small:
        return widest_weights(menu)
    return menu if fast or _format_asked_for(menu) else storage_only(menu)


def blocks_alone(menu: Menu) -> Menu:
    """The menu without weights that are unfolded to float32, where weights in blocks are offered that have no more bits
    and others that have no fewer: those are computed with as they are stored, and lose less. For large models, each of
    whose formats takes minutes."""
    blocks = {n: [s.weight.bits for s in row if s.weight and s.accuracy_level is not None] for n, row in menu.items()}

    def stays(name: str, scheme: Scheme) -> bool:
        bits = blocks[name]
        if scheme.kernel != FP32 or scheme.weight is None or not bits:
            return True
        return not min(bits) <= scheme.weight.bits <= max(bits)

    return menu.preferring(stays)


def storage_only(menu: Menu) -> Menu:
    """The menu without quantized activations."""
    return menu.preferring(lambda _, s: s.reads is Format.FLOAT and not s.dynamic)


def widest_weights(menu: Menu) -> Menu:
    """The menu without weights of fewer bits than others that the same kernel computes with: they are smaller, not
    faster."""
    most: dict[tuple[str, str, Format], int] = {}
    for name, row in menu.items():
        for scheme in row:
            if scheme.weight is not None:
                kind = name, scheme.kernel, scheme.reads
                most[kind] = max(most.get(kind, 0), scheme.weight.bits)
    return menu.preferring(lambda name, s: s.weight is None or s.weight.bits == most[name, s.kernel, s.reads])


def within_float16(model: Model, menu: Menu, histograms: Mapping[str, Histogram]) -> Menu:
    """The menu without float16 where a tensor of the region comes near the largest float16, and without bfloat16,
    which is less exact, where float16 will do."""
    roots, kept, reasons = model.roots, dict[str, tuple[Scheme, ...]](), dict[str, str]()
    for region in model.regions:
        seen = [histograms[r] for t in (*region.inputs, *region.outputs) if (r := roots.get(t, t)) in histograms]
        reach = max((max(-h.low, h.high) for h in seen), default=0.0)
        fits, row = reach * FLOAT16_MARGIN <= LARGEST_FLOAT16, menu[region.name]
        computes = any(s.half == "float16" and not s.reads.quantized for s in row)
        left_out = {"float16"} if not fits else {"bfloat16"} if computes else set()
        kept[region.name] = tuple(s for s in row if s.half is None or s.half not in left_out)
        if not fits and any(s.half == "float16" for s in row) and len(kept[region.name]) == 1:
            reasons[region.name] = f"values up to {reach:.3g} do not fit float16"
    return menu.but(kept, reasons)


def bounded_activations(model: Model, menu: Menu, histograms: Mapping[str, Histogram]) -> Menu:
    """The menu without quantized activations where a tensor of the region held NaN or infinity on some sample: a mask
    of -inf would become the lowest code, which is any number."""
    roots, kept, reasons = model.roots, dict[str, tuple[Scheme, ...]](), dict[str, str]()
    for region in model.regions:
        seen = {t: histograms.get(roots.get(t, t)) for t in (*region.inputs, *region.outputs)}
        broken = next((t for t, h in seen.items() if h is not None and h.unbounded), None)
        row = menu[region.name]
        kept[region.name] = row if broken is None else tuple(s for s in row if not s.reads.quantized)
        if len(kept[region.name]) == 1 < len(row):
            reasons[region.name] = f"tensor {broken!r} holds NaN or infinity on some samples"
    return menu.but(kept, reasons)


def finite_weights(model: Model, menu: Menu) -> Menu:
    """The menu without schemes for layers whose weight or bias holds NaN or infinity, as tables of masks do."""
    kept, reasons = dict(menu), dict[str, str]()
    for region in model.layers:
        layer = region.params
        stored = [t for t in (layer.weight, layer.bias) if t]
        broken = next((t for t in stored if not np.isfinite(np.asarray(model.store.array(t), np.float32)).all()), None)
        if broken is not None:
            kept[region.name] = kept[region.name][:1]
            reasons[region.name] = f"its constant {broken!r} holds NaN or infinity"
    return menu.but(kept, reasons)


def without_wrong_kernels(menu: Menu, runtime: Runtime | None) -> Menu:
    """The menu without schemes whose kernel a probe found wrong on this CPU. runtime: None for a modelled target."""
    if runtime is None:
        return menu
    wrong = {name: [s.name for s in row if runtime.miscomputes(s)] for name, row in menu.items()}
    alone = {n: ", ".join(names) for n, names in wrong.items() if names and len(names) == len(menu[n]) - 1}
    why = {name: f"the kernel of {names} is wrong on this CPU (`onnxmpq doctor`)" for name, names in alone.items()}
    return menu.where(lambda name, s: s.name not in wrong[name], why)


def without_underflow(model: Model, menu: Menu, weights: Mapping[tuple[str, str], QuantizedWeight]) -> Menu:
    """The menu without formats in which a channel that is not zero becomes zero, as on a scale that is too small."""
    kept = dict(menu)
    reasons: dict[str, str] = {}
    for region in model.layers:
        lost = {
            s.name
            for place in region.params.weights
            for s in menu[region.name]
            if s.weight is not None and not s.weight.linear
            if (model.matrix(place).any(axis=1) & ~weights[place.key, s.weight.name].dequantize().any(axis=1)).any()
        }
        kept[region.name] = tuple(s for s in menu[region.name] if s.name not in lost)
        if lost and len(kept[region.name]) == 1:
            reasons[region.name] = f"the weights of a channel underflow in {' and '.join(sorted(lost))}"
    return menu.but(kept, reasons)


def changed_by_rounding(
    model: Model, weights: Mapping[tuple[str, str], QuantizedWeight], regions: Collection[str]
) -> frozenset[str]:
    """Those of the regions that have a weight which one of its formats does not hold exactly. weights: by (key, weight
    format)."""
    places = model.weights
    return frozenset(
        region.name
        for (key, _), weight in weights.items()
        for region, place in [places[key]]
        if region.name in regions and not np.array_equal(weight.dequantize(), model.matrix(place))
    )


def cautious_where_idle(menu: Menu, idle: Collection[str], requested: Iterable[str]) -> Menu:
    """The menu without weights of fewer than `IDLE_BITS` for regions of which no sample shows an effect, such as those
    of a branch that is never taken: their effect is not 0, it is not known. requested: schemes that the user asked for
    by name, which stay."""
    asked = frozenset(requested)

    def stays(region: str, scheme: Scheme) -> bool:
        wide = scheme.weight is None or scheme.weight.bits >= IDLE_BITS
        return wide or region not in idle or scheme.name in asked

    short = {n for n in idle if len(menu[n]) > 1 and not any(stays(n, s) for s in menu[n][1:])}
    return menu.where(stays, dict.fromkeys(short, f"no sample shows its effect, so {IDLE_BITS} bits are the fewest"))


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
    regions = {r.name: r for r in model.regions}
    return menu.preferring(
        lambda name, s: (
            not s.unsigned_weights
            or s.name in requested
            or (bounded and bound_loss_db(model, regions[name], s, weights) > BOUND_LOSS_DB)
        )
    )


def bound_loss_db(
    model: Model, region: Region, scheme: Scheme, weights: Mapping[tuple[str, str], QuantizedWeight]
) -> float:
    """Loss of the layer's weight by the bound in dB of SQNR, as rounded in `weights`; 0 without an int8 scheme."""
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
