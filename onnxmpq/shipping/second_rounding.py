"""The second rounding: a plan's weights rounded again in sequence, and its biases corrected.

Where rounding every format on the menu for its inputs takes too long, as for a model that is never whole in memory, the
plan's own weights are rounded so first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx

from onnxmpq.closed_loop import Outcome
from onnxmpq.context import Context
from onnxmpq.errors import CrashError
from onnxmpq.keys import feeds_hash, model_hash
from onnxmpq.model import Model
from onnxmpq.progress import SEQUENCE
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.samples import FEWEST_DECIDING, Samples
from onnxmpq.sensitivity import Effects, Evaluator
from onnxmpq.statistics import readers
from onnxmpq.weights import (
    Compensated,
    Techniques,
    compensate,
    compensated,
    in_sequence,
    round_for_inputs,
    with_biases,
)
from onnxmpq.workbench import Workbench


def compensate_plan(
    bench: Workbench,
    outcome: Outcome,
    data: Samples,
    effects: Effects,
    techniques: Techniques,
    context: Context,
) -> Compensated:
    """The plan's weights rounded again in sequence and its biases corrected, where held-back samples are for it."""
    weights, deciding = plain_weights(bench, outcome), data.deciding
    if len(deciding) < FEWEST_DECIDING or not weights:
        return Compensated(weights, {}, {}, ())

    asked, techniques = techniques, in_sequence(bench.model, weights, techniques, context.progress)
    if data.calibration.synthetic:  # their means are not those of real inputs, and they cannot tell
        techniques = replace(techniques, used=techniques.used - {"bias-correction"})

    def build(model: Model, changed: Mapping[str, QuantizedWeight]) -> onnx.ModelProto:
        stored = {(name, weight.format.name): weight for name, weight in changed.items()}
        return replace(bench, model=model, weights=stored).build(outcome.assignment)

    by_samples = {key for key, weight in weights.items() if (key, weight.format.name) in bench.by_samples}
    few = _left_out(bench.model, weights, by_samples)

    def first() -> dict[str, QuantizedWeight]:
        formats = {(key, weight.format.name): weight.format for key, weight in weights.items()}
        found = round_for_inputs(bench.model, formats, data.rounding, asked, context, alone=True, skipped=few.extend)
        return {key: weight for (key, _), weight in found.items()}

    alone = bench.model.store.spill is not None and asked.method != "nearest" and not by_samples

    def compute() -> Compensated:
        settings = context.quality_settings(exact_integers=bench.exact_integers)
        evaluator = Evaluator.of(bench.model, effects.pooled, deciding, settings, context)
        with context.progress.stage(SEQUENCE, 2 * len(weights)) as tick:
            found = compensate(
                bench.model,
                weights,
                build,
                data.rounding,
                evaluator.loss,
                techniques,
                threads=context.threads,
                tick=tick,
                first=first if alone else None,
            )
        return replace(found, few_rows=tuple(dict.fromkeys(few)))

    plan = {name: scheme.name for name, scheme in outcome.assignment.items()}
    samples = feeds_hash(data.rounding), feeds_hash(deciding)
    built_of = model_hash(bench.model), plan, bench.activations, bench.keep_io, bench.exact_integers
    depends_on = (*built_of, samples, effects.pooled, techniques, alone and asked)
    try:
        found = compensated(context, bench.model, weights, depends_on, compute)
    except CrashError as error:
        context.progress.warn(f"second rounding is left out: {error}")
        return Compensated(weights, {}, {}, ())
    limit = outcome.size_limit_bytes
    if limit is not None and rebuilt(bench, outcome, found).kept.size_bytes > limit:
        found = replace(found, weights=weights, biases={}, kept=())  # other block multipliers may take a few bytes more
    context.progress.detail(_in_words(found, len(deciding)))
    return found


def _left_out(model: Model, weights: Mapping[str, QuantizedWeight], by_samples: Collection[str]) -> list[str]:
    """Keys of weights that were left out where others were rounded for the inputs of their layers."""
    if model.store.spill is None or not by_samples:
        return []
    multiplied = {key for keys in readers(model).values() for key in keys}
    return [key for key in weights if key in multiplied and key not in by_samples]


def _in_words(found: Compensated, deciding: int) -> str:
    losses = ", ".join(f"{step} {loss:.4g}" for step, loss in found.losses.items())
    return f"second rounding, pooled divergence on {deciding} samples that it has not seen: {losses}"


def plain_weights(bench: Workbench, outcome: Outcome) -> dict[str, QuantizedWeight]:
    """The weights of a plan as its model was measured with them, by key."""
    found: dict[str, QuantizedWeight] = {}
    for name, scheme in outcome.assignment.items():
        layer = bench.model.region(name).layer
        if layer is not None and scheme.weight is not None:
            found |= {w.key: bench.weights[w.key, scheme.weight.name] for w in layer.weights}
    return found


def rebuilt(bench: Workbench, outcome: Outcome, compensated: Compensated) -> Outcome:
    """The outcome with these weights and biases in its model; schemes, and so kernels, stay as they were measured."""
    weights = {(name, weight.format.name): weight for name, weight in compensated.weights.items()}
    model = with_biases(bench.model, compensated.biases)
    proto = replace(bench, model=model, weights=weights).build(outcome.assignment)
    return replace(outcome, proto=proto, kept=replace(outcome.kept, size_bytes=bench.file_bytes(proto)))
