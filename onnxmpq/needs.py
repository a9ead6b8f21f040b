"""Memory, disk and time that a conversion will need, estimated from the model and its menu before anything is run.

Estimates are sums of what is known to be held at the same time, with factors from measurements (`benchmarks/needs.py`,
docs/large_models.md). Nothing but messages and one refusal depends on them.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmpq.cost import Effort
from onnxmpq.decoding import find_decoder
from onnxmpq.errors import OutputError
from onnxmpq.execution import MEMORY, float_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.forecast import Work, forecast
from onnxmpq.menu import Menu, activation_tensors, weight_formats
from onnxmpq.model import LayerWeight, Model
from onnxmpq.progress import ROUNDING, Progress, duration
from onnxmpq.rescale import find_channels
from onnxmpq.rounding import MOST_BYTES, WeightFormat, working_bytes
from onnxmpq.samples import HELD_OUT_SHARE
from onnxmpq.schemes import FP32
from onnxmpq.sensitivity import AUTO, REFERENCE_THREADS, effects_bytes, extent, forward_seconds
from onnxmpq.threads import workers
from onnxmpq.weights import LONGEST_S, Techniques, correctable, fits_in_sequence, quick_enough

PROCESS_BYTES = 65e6
"""Of each process before it has a model: this one, the one that runs models, and those that round."""
NEAREST_S = 1e-7
"""CPU seconds for a weight's value in one format, rounded to nearest: 4e-8 (8 bits, blocks of 128) to 1.7e-7 (dual)."""
FILE_BYTE_S, OPEN_BYTE_S, VARIANT_S = 2e-9, 1e-9, 3e-8
"""CPU seconds of a model that is never whole in memory: for a byte that is read and hashed, for a byte of a session
that is opened, and for a weight's value in one format that a part of the graph is opened with while effects are
measured (AMD EPYC with AVX512-VNNI, 2026-11-26)."""
OPENINGS = 8  # of the original, from the first timing to the last
SIDE = 1.13  # bytes of int8 codes with their scales, in blocks of 32
PLANS = 12  # that are built and timed while costs are measured; one where all schemes have float32's kernels
TRIES_PER_TENSOR = 2.0
COMPARED_BYTES = 64  # for an element of an output: in float32 as three runs made it, in float64, and what differs
ALL = Techniques()
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Needs:
    """Upper estimates of a conversion. memory_bytes: anonymous, of all processes together. scratch_bytes: of temporary
    files. seconds: on as many cores as there are; None where the model's shapes are unknown."""

    memory_bytes: int
    scratch_bytes: int
    seconds: float | None

    def in_words(self) -> str:
        """A line for the screen."""
        parts = [f"about {_size(self.memory_bytes)} of memory"]
        if self.scratch_bytes:
            parts.append(f"up to {_size(self.scratch_bytes)} in {tempfile.gettempdir()}")
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)}")
        return f"a conversion will need {', '.join(parts)}"


def needs(
    model: Model,
    menu: Menu,
    shapes: Shapes | None,
    samples: int,
    threads: int | None = None,
    techniques: Techniques = ALL,
) -> Needs:
    """Of a conversion with this menu. shapes: of the float tensors between regions for one sample, None if unknown.
    threads: None for as many as there are cores; with 1, seconds are those of CPU time."""
    threads = threads or workers()
    seconds = None if shapes is None else _seconds(model, menu, shapes, samples, threads, techniques.method)
    return Needs(_memory(model, menu, shapes, samples, threads), scratch_bytes(model, menu, techniques), seconds)


def scratch_bytes(model: Model, menu: Menu, techniques: Techniques = ALL) -> int:
    """Bytes of temporary files at most; 0 for a model that memory holds.

    Before any plan: rescaled float weights, twice, or once with a quick quantized form of the model. Afterwards:
    rescaled float weights, weights rounded to nearest and as they are written, in every format, and the largest of
    those rounded for their inputs, those that kernels read while effects are measured, and the plan's own: in float32
    and rounded again in sequence, or as they go beside the plan; and those of the plan before, which is held until
    another one has been measured to its end.
    """
    if model.store.spill is None:
        return 0
    places, formats = model.weights, weight_formats(model, menu)
    keys = [key for key, _ in formats]
    rescaled = _rescaled_bytes(model) if {"equalisation", "smoothquant"} & techniques.used else 0
    rounded, largest = _summed([(key, _rounded_bytes(f, places[key][1])) for (key, _), f in formats.items()])
    written, largest_written = _summed([(key, _written_bytes(f, places[key][1])) for (key, _), f in formats.items()])
    crossed = "cross" in techniques and fits_in_sequence(model, keys)
    biases = "bias-correction" in techniques and bool(correctable(model, [r.name for r in model.layers]))
    in_float = 4 * sum(places[key][1].parameters for key in dict.fromkeys(keys))
    again = (in_float if crossed or biases else 0) + (largest + largest_written if crossed else 0)
    alone = quick_enough(model, keys, techniques.method, math.inf)[1] > LONGEST_S  # the plan's own weights, later
    for_inputs, again = (largest, again + largest + largest_written) if alone else (rounded, again)
    again += largest if crossed or alone else 0
    halves = [r for r in model.layers for s in menu[r.name] if s.weight is None and s.half]
    in_half = sum(place.parameters for r in halves for place in r.params.weights)
    plans = rounded + written + 2 * in_half + max(for_inputs, _effect_bytes(model, menu) + 4 * in_half, again, largest)
    return round(rescaled + max(rescaled, largest + largest_written, plans))


def _summed(found: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """Of all weights in all formats, and in the largest of each weight."""
    return sum(size for _, size in found), sum(dict(sorted(found, key=lambda row: row[1])).values())


def _effect_bytes(model: Model, menu: Menu) -> float:
    """Of weights while effects are measured: as kernels read them that round inside, and of one layer in float32."""
    inside, alone = 0.0, [0]
    for region in model.layers:
        others = set()
        for scheme in (s for s in menu[region.name] if s.weight is not None):
            assert scheme.weight is not None
            if scheme.rounds_inside and not region.operator.looks_up:
                inside += sum(_written_bytes(scheme.weight, place) for place in region.params.weights)
            else:
                others.add(scheme.weight.name)
        alone.append(4 * len(others) * sum(place.parameters for place in region.params.weights))
    return inside + max(alone)


def _rescaled_bytes(model: Model) -> int:
    """Of float constants that get other values where channels are rescaled."""
    names = {role.constant for role in find_channels(model.structure).roles}
    return sum(4 * math.prod(t.dims) for t in model.structure.graph.initializer if t.name in names)


def _rounded_bytes(weight_format: WeightFormat, place: LayerWeight) -> float:
    """Of a rounded weight: a byte for each code and multiplier, and the scales."""
    blocks = weight_format.blocks(place.fan_in)
    multipliers = place.out_channels * blocks if weight_format.has_multipliers else 0
    return place.parameters + 4 * math.prod(weight_format.scale_shape(place.out_channels, blocks)) + multipliers


def _written_bytes(weight_format: WeightFormat, place: LayerWeight) -> float:
    """Of the same as kernels read it."""
    codes = place.parameters * (weight_format.storage_bits + weight_format.low_bits) / 8
    return codes + _rounded_bytes(weight_format, place) - place.parameters


def announce(model: Model, menu: Menu, feeds: Feeds, progress: Progress, techniques: Techniques = ALL) -> None:
    """Say what the conversion of a model that is never whole in memory will need, before it takes it.

    Raises OutputError where the temporary folder has less room.
    """
    if model.store.spill is None:
        return
    found, folder = (
        needs(model, menu, float_shapes(model, feeds), len(feeds), techniques=techniques),
        Path(tempfile.gettempdir()),
    )
    progress.say(found.in_words())
    free = shutil.disk_usage(folder).free
    if found.scratch_bytes > free:
        raise OutputError(
            f"temporary folder {folder}: up to {_size(found.scratch_bytes)} are needed and {_size(free)} are free; set "
            "TMPDIR to a folder with more room, or offer fewer schemes with --scheme"
        )


def _memory(model: Model, menu: Menu, shapes: Shapes | None, samples: int, threads: int) -> int:
    """Either processes that round, or effects beside two sessions that hold weights at the same time, the original's
    and that of a plan; and values of samples.

    Of a model that is never whole in memory one session does.
    """
    largest = max((place.parameters for _, place in model.weights.values()), default=0)
    sessions, rounding = 2.0 * model.prepared_bytes, 24.0 * largest * threads
    held = SIDE * _values(model, menu) + 3 * model.prepared_bytes
    effects = _effects_held(model, menu, shapes, samples) + _compared(model, shapes, samples)
    if model.store.spill is not None:
        sessions, rounding, held = 1.0 * model.prepared_bytes, _rounding_memory(model, threads), 0.0
    rounding += PROCESS_BYTES * (threads if threads > 1 else 0)
    running = 4 * sum(math.prod(s) for s in (shapes or {}).values())
    kept = min(MEMORY.kept, samples * running) + min(MEMORY.shown, running) * threads
    return round(2 * PROCESS_BYTES + held + kept + max(rounding, sessions + effects))


def _effects_held(model: Model, menu: Menu, shapes: Shapes | None, samples: int) -> float:
    """Of a change of the outputs for each weight in each format, kernel and activation tensor, on each sample."""
    if shapes is None or model.store.spill is not None:  # effects by blocks take what they may
        return float(MEMORY.effects)
    decoder = find_decoder(model.structure)
    caches = {pair.present for pair in decoder.pairs} if decoder else set()  # have no codes
    elements = [size for name, size in _output_elements(model, shapes).items() if name not in caches]
    own = {
        (region.name, scheme.name if scheme.rounds_inside else scheme.weight.name)
        for region in model.layers
        for scheme in menu[region.name]
        if scheme.weight is not None
    }
    entries = len(own) + len(activation_tensors(model, menu))
    run = extent(model, AUTO, forward_seconds(model, shapes), entries, samples)
    return float(effects_bytes(run.samples, entries, elements))


def _compared(model: Model, shapes: Shapes | None, samples: int) -> float:
    """Of the outputs of both models on samples that are held out, while they are compared."""
    held_out = samples * HELD_OUT_SHARE / (1.0 - HELD_OUT_SHARE)
    return COMPARED_BYTES * held_out * sum(_output_elements(model, shapes).values())


def _output_elements(model: Model, shapes: Shapes | None) -> dict[str, int]:
    """Of outputs of floats, for one sample."""
    known = shapes or {}
    return {name: math.prod(known[name]) for name in model.output_names if name in known}


def _rounding_memory(model: Model, threads: int) -> float:
    """To nearest, or for the inputs of layers, beside the sums of their moments."""
    places = [place for _, place in model.weights.values()]
    nearest = 10 * max((p.parameters for p in places), default=0) * threads
    one = max((working_bytes(p.out_channels, p.fan_in) for p in places), default=0)
    moments = 12 * max((p.fan_in**2 for p in places), default=0)
    return max(nearest, min(threads * one, max(one, MOST_BYTES)) + moments)


def _seconds(model: Model, menu: Menu, shapes: Shapes, samples: int, threads: int, method: str) -> float:
    once, effort, formats = forward_seconds(model, shapes), Effort(), len(weight_formats(model, menu))
    tries = formats + round(TRIES_PER_TENSOR * len(activation_tensors(model, menu)))
    layers, values = len(model.layers), _values(model, menu)
    forward = REFERENCE_THREADS * once
    run = extent(model, AUTO, once, tries, samples)
    work = Work(forward, samples, run.samples, run.passes, layers, formats, tries, threads, effort.seconds)
    rest = sum(seconds for stage, seconds in forecast(work).items() if stage != ROUNDING)
    plans = PLANS if any(s.kernel != FP32 for row in menu.values() for s in row) else 1
    before = NEAREST_S * values / threads + plans * (2 * effort.seconds + 20 * forward)
    keys = [key for key, _ in weight_formats(model, menu)]
    if model.store.spill is None:
        for_inputs = quick_enough(model, keys, method, math.inf)[1]
        return before + rest + for_inputs / threads
    size = model.prepared_bytes
    before += FILE_BYTE_S * size + OPEN_BYTE_S * size * (OPENINGS + plans) + VARIANT_S * values / threads
    full_s = quick_enough(model, keys, method, math.inf)[1]
    plan_s = quick_enough(model, list(model.weights), method)[1]  # of all weights, in one format
    return before + rest + (full_s if full_s <= LONGEST_S else plan_s) / threads


def _values(model: Model, menu: Menu) -> int:
    """Values of all weights, once for each format."""
    places = model.weights
    return sum(places[key][1].parameters for key, _ in weight_formats(model, menu))


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
