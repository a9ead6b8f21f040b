"""Calibration: histograms of activations, and the workbench that models are built on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxmpq.cache import NO_CACHE, Cache
from onnxmpq.closed_loop import Workbench
from onnxmpq.dialects import Dialect
from onnxmpq.errors import UsageError
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.progress import Progress
from onnxmpq.provenance import describe_runtime, other_versions
from onnxmpq.ranges import ESTIMATORS, ActivationType, Observation, QuantParams, headroom, params_key
from onnxmpq.ranges.exchange import Calibration, read_calibration
from onnxmpq.ranges.params import BITS
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.schemes import Format
from onnxmpq.stages import reuse
from onnxmpq.weights import pair_bound

ROUNDING = "nearest"
CHOICES: dict[str, tuple[str, ...]] = {"auto": ("mse", "minmax"), **{name: (name,) for name in ESTIMATORS}}
"""What `--estimator` takes: of several, each tensor gets the one of least effect on the outputs."""


def activation_tensors(model: Model, menu: Menu) -> list[str]:
    """Root tensors that some scheme on the menu reads or writes in 8 or fewer bits, in graph order."""
    roots = model.roots
    touched: list[str] = []
    for region in model.regions:
        if any(s.reads.quantized for s in menu[region.name]):
            touched += region.inputs
        if any(s.reads is Format.INT8 for s in menu[region.name]):
            touched += region.outputs
    return list(dict.fromkeys(roots.get(t, t) for t in touched))


def half_tensors(model: Model, menu: Menu) -> list[str]:
    """Root tensors that some scheme on the menu would hold in float16."""
    roots = model.roots
    touched = [
        t
        for region in model.regions
        if any(s.half == "float16" for s in menu[region.name])
        for t in (*region.inputs, *region.outputs)
    ]
    return list(dict.fromkeys(roots.get(t, t) for t in touched))


def activation_type(menu: Menu) -> ActivationType:
    """The one type of quantized activations on the menu (`menu.one_activation_format`)."""
    found = {s.reads for row in menu.values() for s in row if s.reads.quantized}
    return next(iter(found)).element if found else "uint8"


def narrow_inputs(model: Model, menu: Menu) -> dict[tuple[str, int], str]:
    """(layer, bits) for every width below 8 in which the menu lets a layer read -> root of the tensor it reads."""
    roots = model.roots
    return {
        (region.name, s.activation_bits): roots.get(region.inputs[0], region.inputs[0])
        for region in model.layers
        for s in menu[region.name]
        if s.reads is Format.INT8 and s.activation_bits < BITS
    }


def require_estimator(name: str) -> None:
    """Raises UsageError for a name that is not in `CHOICES`."""
    if name not in CHOICES:
        raise UsageError(f"no estimator of ranges is called {name!r}; choose one of {', '.join(CHOICES)}")


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
    room = headroom(model.structure, tensors) if made_up else {}
    if room:
        progress.say(f"made-up samples: activation ranges are widened with depth, up to {max(room.values()):.2g} times")
    return replace(found, estimators=CHOICES[estimator], headroom=room)


def prepare_bench(
    model: Model, menu: Menu, observation: Observation, dialect: Dialect, progress: Progress
) -> Workbench:
    """Activation parameters of every width by the first estimator, and rounded weights for every scheme on the menu."""
    wanted = {
        (region.name, s.weight.name): (region, s.weight)
        for region in model.layers
        for s in menu[region.name]
        if s.weight is not None
    }
    weights: dict[tuple[str, str], QuantizedWeight] = {}
    with progress.stage("rounding weights", len(wanted)) as tick:
        for key, (region, weight_format) in wanted.items():
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
