"""Calibration: histograms of activations, and the workbench that models are built on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxmpq.cache import NO_CACHE, Cache
from onnxmpq.closed_loop import Workbench
from onnxmpq.dialects import Dialect
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import (
    Menu,
    activation_tensors,
    activation_type,
    half_tensors,
    narrow_inputs,
    weight_formats,
)
from onnxmpq.model import Model
from onnxmpq.progress import Progress
from onnxmpq.provenance import describe_runtime, other_versions
from onnxmpq.ranges import CHOICES, ActivationType, Observation, QuantParams, headroom, params_key
from onnxmpq.ranges.exchange import Calibration, read_calibration
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.stages import reuse
from onnxmpq.weights import pair_bound

ROUNDING = "nearest"


def known_ranges(
    given: str | Path | Calibration | None, model: Model, name: str, progress: Progress
) -> Calibration | None:
    """The calibration that was given, or the one in the file. Raises CalibrationError where it fits another model."""
    if given is None:
        return None
    found = given if isinstance(given, Calibration) else read_calibration(Path(given))
    found.require(model, name)
    samples = found.samples
    apart = other_versions(found.runtime, describe_runtime())
    made = f", with {', '.join(apart)}" if apart else ""
    progress.say(f"activation ranges as calibrated before, on {samples['count']} samples of {samples['source']}{made}")
    return found


def calibrate(
    model: Model,
    menu: Menu,
    feeds: Feeds,
    progress: Progress,
    cache: Cache = NO_CACHE,
    known: Calibration | None = None,
    estimator: str = "auto",
) -> Observation:
    """Histograms of all activations that may be quantized or held in float16; those of `known` where it is given.

    estimator: a name of `CHOICES`, to make ranges of them.
    """
    tensors = list(dict.fromkeys((*activation_tensors(model, menu), *half_tensors(model, menu))))
    if not tensors:
        return Observation({}, {})
    if known is not None:
        found, made_up = known.of(tensors), bool(known.samples["made_up"])
    else:
        with progress.stage("calibrating activation ranges", 0) as tick:
            found, made_up = reuse.observed(cache, model, feeds, tensors, tick), feeds.synthetic
    room = headroom(model.proto, tensors) if made_up else {}
    if room:
        progress.say(f"made-up samples: activation ranges are widened with depth, up to {max(room.values()):.2g} times")
    return replace(found, estimators=CHOICES[estimator], headroom=room)


def prepare_bench(
    model: Model, menu: Menu, observation: Observation, dialect: Dialect, progress: Progress
) -> Workbench:
    """Activation parameters of every width by the first estimator, and rounded weights for every scheme on the menu."""
    wanted = weight_formats(model, menu)
    weights: dict[tuple[str, str], QuantizedWeight] = {}
    with progress.stage("rounding weights", len(wanted)) as tick:
        for key, weight_format in wanted.items():
            region = model.region(key[0])
            bound = pair_bound(region, weight_format)
            weights[key] = quantize_weight(model.weight(region), weight_format, method=ROUNDING, bound=bound)
            tick(1)
    kind, estimator = activation_type(menu), observation.estimators[0]
    activations = {t: observation.estimate(t, estimator, kind=kind) for t in activation_tensors(model, menu)}
    for tensor, bits in sorted({(tensor, bits) for (_, bits), tensor in narrow_inputs(model, menu).items()}):
        activations[params_key(tensor, bits)] = observation.estimate(tensor, estimator, bits)
    return Workbench(model, dialect, activations, weights)


def range_candidates(observation: Observation, tensor: str, kind: ActivationType) -> list[QuantParams]:
    """Parameters worth comparing by their effect on the outputs: estimators that differ by over two percent."""
    kept: list[QuantParams] = []
    for name in observation.estimators:
        params = observation.estimate(tensor, name, kind=kind)
        if all(abs(params.scale / other.scale - 1.0) > 0.02 for other in kept):
            kept.append(params)
    return kept
