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
from onnxmpq.errors import OutputError
from onnxmpq.execution import MEMORY, float_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.forecast import Work, forecast
from onnxmpq.menu import Menu, activation_tensors, weight_formats
from onnxmpq.model import Model
from onnxmpq.progress import ROUNDING, Progress, duration
from onnxmpq.schemes import FP32
from onnxmpq.sensitivity import AUTO, REFERENCE_THREADS, extent, forward_seconds
from onnxmpq.threads import workers
from onnxmpq.weights import quick_enough

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


def needs(model: Model, menu: Menu, shapes: Shapes | None, samples: int, threads: int | None = None) -> Needs:
    """Of a conversion with this menu. shapes: of the float tensors between regions for one sample, None if unknown.
    threads: None for as many as there are cores; with 1, seconds are those of CPU time."""
    threads = threads or workers()
    seconds = None if shapes is None else _seconds(model, menu, shapes, samples, threads)
    return Needs(_memory(model, menu, shapes, samples, threads), scratch_bytes(model, menu), seconds)


def scratch_bytes(model: Model, menu: Menu) -> int:
    """Bytes of temporary files at most; 0 for a model that memory holds.

    They hold rounded weights (to nearest, and for their inputs unless that takes too long), weights as kernels
    read them (for effects, and as they are written), and either a rescaled model with its quick quantized form or float
    weights of the plan that is rounded in sequence.
    """
    if model.store.spill is None:
        return 0
    places, formats = model.weights, weight_formats(model, menu)
    values = sum(places[key][1].parameters for key, _ in formats)
    packed = sum(places[key][1].parameters * f.storage_bits / 8 for (key, _), f in formats.items())
    layers = sum(place.parameters for _, place in places.values())
    copies = 1 if quick_enough(model, [key for key, _ in formats])[0] == "nearest" else 2
    return round(copies * SIDE * values + 2 * packed + 9 * layers)


def announce(model: Model, menu: Menu, feeds: Feeds, progress: Progress) -> None:
    """Say what the conversion of a model that is never whole in memory will need, before it takes it.

    Raises OutputError where the temporary folder has less room.
    """
    if model.store.spill is None:
        return
    found, folder = needs(model, menu, float_shapes(model, feeds), len(feeds)), Path(tempfile.gettempdir())
    progress.say(found.in_words())
    free = shutil.disk_usage(folder).free
    if found.scratch_bytes > free:
        raise OutputError(
            f"temporary folder {folder}: up to {_size(found.scratch_bytes)} are needed and {_size(free)} are free; set "
            "TMPDIR to a folder with more room, or offer fewer schemes with --scheme"
        )


def _memory(model: Model, menu: Menu, shapes: Shapes | None, samples: int, threads: int) -> int:
    """Two sessions hold weights at the same time, the original's and that of a plan; beside them, values of samples.

    Of a model that is never whole in memory one session does, and weights are rounded without the inputs of layers.
    """
    values = _values(model, menu)
    processes = PROCESS_BYTES * (2 + (threads if threads > 1 else 0))
    largest = max((place.parameters for _, place in model.weights.values()), default=0)
    sessions, rounding = 2.0 * model.prepared_bytes, 24 * largest * threads
    held = SIDE * values + 3 * model.prepared_bytes
    if model.store.spill is not None:
        sessions, rounding, held = 1.0 * model.prepared_bytes, 10 * largest * threads, float(MEMORY.effects)
    running = 4 * sum(math.prod(s) for s in (shapes or {}).values())
    kept = min(MEMORY.kept, samples * running) + min(MEMORY.shown, running) * threads
    return round(processes + max(sessions, rounding) + held + kept)


def _seconds(model: Model, menu: Menu, shapes: Shapes, samples: int, threads: int) -> float:
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
        for_inputs = quick_enough(model, keys, longest_s=math.inf)[1]
        return before + rest + for_inputs / threads
    size = model.prepared_bytes
    before += FILE_BYTE_S * size + OPEN_BYTE_S * size * (OPENINGS + plans) + VARIANT_S * values / threads
    return before + rest + quick_enough(model, keys)[1] / threads


def _values(model: Model, menu: Menu) -> int:
    """Values of all weights, once for each format."""
    places = model.weights
    return sum(places[key][1].parameters for key, _ in weight_formats(model, menu))


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
