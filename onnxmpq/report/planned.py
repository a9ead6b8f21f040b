"""The plan with its reasons, and notes on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmpq.allocate import QUANTITIES, Budgets, Option, Problem, Stored
from onnxmpq.closed_loop import Outcome
from onnxmpq.deployment import DeployCpu
from onnxmpq.model import Model, Region, RegionKind, Spill
from onnxmpq.plan import Plan, PlannedRegion
from onnxmpq.provenance import describe_runtime
from onnxmpq.quality import Floors, Timing, Validation
from onnxmpq.ranges import QuantParams
from onnxmpq.report.account import effects_of_activations
from onnxmpq.rescale import Rescaling
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import OUTPUT_KINDS, Effects, OutputKind
from onnxmpq.shipping import Shipped
from onnxmpq.target import Target
from onnxmpq.weights import Compensated, few_rows_words, pack, pack_array

MOST_NAMED = 5  # layers in a note
FASTEST = "float32 is the fastest here"


def build_plan(
    model: Model,
    target: Target,
    budgets: Budgets,
    floors: Floors,
    shipped: Shipped,
    activations: Mapping[str, QuantParams],
    reasons: Mapping[str, str],
    effects: Effects,
    threads: int,
    source: Any,
    rounding: str,
) -> Plan:
    """The plan of an outcome, complete enough to be applied again."""
    outcome, problem = shipped.outcome, shipped.outcome.problem
    schemes, of_activations = outcome.assignment, effects_of_activations(problem, outcome.assignment)
    stored = problem.stored(schemes)
    rows = [
        _planned(model, region, schemes.get(name), problem.options[name], stored, reasons, of_activations[name])
        for name, region in ((r.name, r) for r in model.regions)
        if region.kind is not RegionKind.FLOAT or name in schemes
    ]
    return Plan(
        model={"name": source_name(source), "sha256": model.source_sha256, "bytes": model.source_bytes},
        target=target.name,
        dialect=target.dialect,
        budgets={**budgets.spelled(), **floors.asked()},
        layers=tuple(rows),
        activations={t: activations[t] for t in sorted(activations)},
        rounding=rounding,
        runtime={**describe_runtime(), "threads": str(threads)},
        prediction={
            **_predicted(problem, outcome.assignment, modelled=False),
            "effect": problem.effect(outcome.assignment),
            "solver_bound": outcome.solution.bound,
            "solver_gap": outcome.solution.gap,
            "original_latency_ms": problem.latency_s({}) * 1e3,
            **_predicted(problem, outcome.assignment, modelled=True),
            **_predicted(problem, {}, modelled=True, whose="original_"),
        },
        measured=_measured(outcome, shipped.validation.timing),
        met=outcome.met,
        quality={"level": shipped.verdict.level, "reasons": list(shipped.verdict.reasons)},
        notes=simulated_note(outcome.assignment.values()),
    )


def _predicted(
    problem: Problem, assignment: Mapping[str, Scheme], *, modelled: bool, whose: str = ""
) -> dict[str, float]:
    """Figures of a plan, of quantities that are only modelled or of the others; of those that the original has."""
    return {
        f"{whose}{quantity.figure}": quantity.in_figures(problem.total(name, assignment))
        for name, quantity in QUANTITIES.items()
        if quantity.modelled is modelled and problem.total(name, {})
    }


def with_stored_weights(
    plan: Plan, compensated: Compensated, left_out: Collection[str] = (), spill: Spill | None = None
) -> Plan:
    """The plan with all weights and biases that `apply` could not make again without the samples. left_out: keys of
    weights that it can. spill: of a model that is never whole in memory."""
    biases = {name: pack_array(values.astype("<f4")) for name, values in compensated.biases.items()}
    weights = {name: pack(weight, spill) for name, weight in compensated.weights.items() if name not in left_out}
    return replace(plan, compensation=dict(compensated.losses), weights=weights, biases=biases)


def with_factors(plan: Plan, rescaling: Rescaling) -> Plan:
    """The plan with what `apply` needs to rescale the model again, and to order its channels."""
    packed = "" if rescaling.factors is None else pack_array(rescaling.factors.astype("<f4"))
    order = "" if rescaling.order is None else pack_array(rescaling.order.astype("<i4"))
    return replace(plan, factors=packed, order=order, rescaling=dict(rescaling.losses))


def simulated_note(schemes: Iterable[Scheme]) -> tuple[str, ...]:
    """Notes on schemes whose bit-widths the file has no type for."""
    found = Counter(s.name for s in schemes if s.simulated)
    if not found:
        return ()
    names = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
    return (
        f"simulated: {names}. onnxruntime has no types of these bits, so the file stores the next larger one (weights "
        "int4 or int8, activations uint8), with codes that keep to the bits of the scheme; its size and its latency "
        "here are not the target's",
    )


def unjudged_note(outputs: Sequence[str], kinds: Mapping[str, OutputKind], validation: Validation) -> list[str]:
    """Outputs whose quality is not known, but for random ones, of which the model's own notes tell."""
    judged = {o.name for o in validation.outputs}
    names = [name for name in outputs if name not in judged and OUTPUT_KINDS[kinds.get(name, "values")].deliberate]
    if not names:
        return []
    what = f"output{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    return [
        f"{what} could not be compared: the shape depends on the data, or it holds no numbers; quality is not known"
    ]


def idle_note(idle: Collection[str], assignment: Mapping[str, Scheme]) -> list[str]:
    """Quantized weights whose effect is not known. idle: regions of which no sample shows one."""
    chosen = [f"{name} ({s.name})" for name, s in assignment.items() if name in idle and s.weight is not None]
    if not chosen:
        return []
    return [
        f"no sample shows an effect of these weights, as in a branch that is never taken: "
        f"{_first(chosen)}; their quality is not known, give samples that reach them"
    ]


def blocks_note(effects: Effects) -> list[str]:
    """Effects that were measured block by block, with the spread of their gains."""
    if effects.by_blocks is None:
        return []
    gains = effects.by_blocks.gains.values()
    spreads = [g.spread for g in gains if g.spread is not None]
    doubt = f"; within a block they differ by a factor of {np.exp(np.median(spreads)):.2f}" if spreads else ""
    return [
        f"effects are measured at the ends of {len(gains) + 1} blocks, and {sum(g.changes for g in gains)} of them at "
        f"the outputs too, which gives each block's gain{doubt} (--effects full measures all at the outputs)"
    ]


def few_rows_note(keys: Sequence[str]) -> list[str]:
    """Weights that no samples took part in rounding for want of rows."""
    return [few_rows_words(keys)] if keys else []


def coupled_note(groups: Sequence[Sequence[str]]) -> list[str]:
    """Layers that have one scheme by `--couple`."""
    return [f"one scheme for {' + '.join(group)} (--couple)" for group in groups]


def narrow_ends_note(proto: onnx.ModelProto, source: onnx.ModelProto) -> str:
    """Inputs and outputs that are not of the source's types."""
    before = {i.name: i.type.tensor_type.elem_type for i in (*source.graph.input, *source.graph.output)}
    ends = {i.name: i.type.tensor_type.elem_type for i in (*proto.graph.input, *proto.graph.output)}
    narrow = [f"{n} {onnx.TensorProto.DataType.Name(e).lower()}" for n, e in ends.items() if e != before[n]]
    if not narrow:
        return "--no-keep-io changes nothing here: the plan reads no input and writes no output in 16 bits"
    return f"inputs and outputs in 16 bits: {', '.join(narrow)}"


def foreign_latency_note(cpu: DeployCpu) -> str:
    """That latencies are not those of the deployment CPU."""
    here = describe_runtime()
    return (
        f"latency measured on this machine (CPU {here['cpu']}, features {here['cpu_features']}), which is not the "
        f"deployment CPU ({cpu})"
    )


def _measured(outcome: Outcome, timing: Timing | None) -> dict[str, float]:
    """Figures that were measured rather than modelled: the size always, latencies where the target is this machine."""
    size: dict[str, float] = {"size_bytes": outcome.kept.size_bytes}
    if not outcome.measured:
        return size
    latencies = {"latency_ms": outcome.kept.measured_s * 1e3, "original_latency_ms": outcome.original_s * 1e3}
    if timing is not None:
        latencies["latency_ms_low"] = timing.ratio_low * timing.original_s * 1e3
        latencies["latency_ms_high"] = timing.ratio_high * timing.original_s * 1e3
    return {**latencies, **size}


def _first(names: Sequence[str]) -> str:
    """The first `MOST_NAMED` of them, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _planned(
    model: Model,
    region: Region,
    scheme: Scheme | None,
    options: tuple[Option, ...],
    stored: Mapping[str, Stored],
    reasons: Mapping[str, str],
    of_activations: float,
) -> PlannedRegion:
    name = scheme.name if scheme else "fp32"
    chosen = next(o for o in options if o.scheme.name == name)
    original = tuple(dict.fromkeys(o for n in region.nodes for o in model.origin.get(n, (n,))))
    reason = "" if scheme else _why_float(chosen, options, reasons.get(region.name, ""))
    size = round(stored[region.name].bytes) if region.layer is not None else None
    return PlannedRegion(
        region.name,
        region.op_type,
        name,
        original,
        chosen.latency_s * 1e3,
        size,
        chosen.effect,
        of_activations,
        reason,
    )


def _why_float(chosen: Option, options: tuple[Option, ...], known: str) -> str:
    others = [o for o in options if not o.scheme.is_fp32]
    if known or not others:
        return known or "no other scheme fuses here"
    faster = [o for o in others if o.latency_s < chosen.latency_s]
    if not faster:
        as_fast = any(o.latency_s == chosen.latency_s for o in others)
        first = "no other scheme is faster here, and the budgets are met without" if as_fast else FASTEST
        return first + _what_bytes_cost(chosen, others)
    best = min(faster, key=lambda o: o.latency_s)
    saved_us = (chosen.latency_s - best.latency_s) * 1e6
    return (
        f"kept: {best.scheme.name} would save {saved_us:.1f} us, before transitions and what its activations would "
        f"cost in quality (its weights alone: {best.effect:.2g})"
    )


def _what_bytes_cost(chosen: Option, others: list[Option]) -> str:
    """The scheme that stores least, where its bytes cost time: without a limit on latency the original's is kept."""
    smallest = min(others, key=lambda o: o.size_bytes)
    saved, slower_us = chosen.size_bytes - smallest.size_bytes, (smallest.latency_s - chosen.latency_s) * 1e6
    if saved <= 0 or slower_us <= 0:
        return ""
    return (
        f"; {smallest.scheme.name} would save {saved:.0f} bytes and take {slower_us:.1f} us more, if --latency allows"
    )


def source_name(source: Any) -> str:
    return "model" if isinstance(source, onnx.ModelProto) else Path(source).name
