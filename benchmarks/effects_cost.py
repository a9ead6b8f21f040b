"""What one-at-a-time effects cost, nothing cached: forward passes of the calibration set per (layer, scheme).

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.effects_cost [MODEL ...] [--samples 64] [--profile]

Marks: at most 0.7 forward passes per (layer, scheme) on the zoo's CNNs; squeezenet1.1 with 64 images from start to plan
in 60 s on 2 cores; memory below 1.5 GB plus twice the model. A forward pass is one run of the fp32 model over the same
samples with the same threads, one by one and in batches as effects are measured, timed before and after. A perturbation
is one weight format of one layer or one candidate range of one tensor; the schemes on the menu share them. Every model
runs in a process of its own. --profile prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import onnxmpq
from benchmarks.stages import machine, table_of
from benchmarks.zoo import arrays, zoo
from onnxmpq.dialects import DIALECTS
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import candidates
from onnxmpq.model import Model, prepare
from onnxmpq.progress import Progress, Tick
from onnxmpq.runtime import SessionSettings, open_session, run
from onnxmpq.sensitivity import Perturbations, measure_effects
from onnxmpq.stages.ranges import activation_tensors, activation_type, calibrate, prepare_bench, range_candidates
from onnxmpq.stages.samples import gather_samples
from onnxmpq.stages.threads import workers
from onnxmpq.target.load import load_target

CNNS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "yolov8n")
SAMPLES, HELD_OUT = 64, 21
BATCH = 8  # as `measure_effects` takes them
MARK_PASSES, MARK_SECONDS, MARK_BYTES = 0.7, 60.0, 1.5e9
BEFORE_VALIDATION = "validating"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pass_seconds(model: Model, feeds: Feeds, batch: int) -> float:
    """One run of the fp32 model over all samples."""
    session = open_session(model.proto, SessionSettings(threads=workers()))
    run(session, feeds.batch([0]))
    start = time.perf_counter()
    for inputs in feeds.batches(batch):
        run(session, inputs)
    return time.perf_counter() - start


def effects_cost(name: str, samples: int, profile: bool) -> dict[str, Any]:
    """Seconds of all effects of the full menu, and of forward passes before and after (the median of both)."""
    entry, device, progress = zoo().load(name), load_target("cpu"), Progress()
    model = prepare(entry.model)
    feeds = gather_samples(model, arrays(entry, "calib", samples + HELD_OUT), None, samples, 0, progress).calibration
    menu, _ = candidates(model, device, DIALECTS[device.dialect].supports)
    observation = calibrate(model, menu, feeds, progress)
    bench = prepare_bench(model, menu, observation, DIALECTS[device.dialect], progress)
    tensors = activation_tensors(model, menu)
    kind = activation_type(menu)
    tries = Perturbations(bench.weights, {t: range_candidates(observation, t, kind) for t in tensors})
    passes = {batch: [pass_seconds(model, feeds, batch) for _ in range(2)] for batch in (1, BATCH)}
    profiler = cProfile.Profile()
    start = time.perf_counter()
    if profile:
        profiler.enable()
    measure_effects(model, feeds, tries, threads=workers(), batch=BATCH)
    profiler.disable()
    seconds = time.perf_counter() - start
    for batch, found in passes.items():
        found += [pass_seconds(model, feeds, batch) for _ in range(2)]
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(18)
    return {
        "samples": len(feeds),
        "perturbations": tries.count,
        "schemes": sum(len([s for s in menu[r.name] if not s.is_float]) for r in model.layers),
        "seconds": seconds,
        "single_s": float(np.median(passes[1])),
        "batched_s": float(np.median(passes[BATCH])),
        "peak_bytes": peak_bytes(),
        "model_bytes": model.source_bytes,
    }


class Clock(Progress):
    """Notes when the plan is made: the moment validation begins."""

    def __init__(self) -> None:
        self.planned = 0.0

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        if what == BEFORE_VALIDATION:
            self.planned = time.perf_counter()
        yield lambda _: None


def to_plan(name: str, samples: int) -> dict[str, Any]:
    """Seconds from start to plan of a whole conversion, with all rounding, measuring and rounds of the closed loop."""
    entry, clock = zoo().load(name), Clock()
    given = arrays(entry, "calib", samples + HELD_OUT)
    start = time.perf_counter()
    onnxmpq.convert(entry.model, latency="fastest", calibration=given, samples=samples, cache=False, progress=clock)
    return {
        "to_plan_s": clock.planned - start,
        "convert_s": time.perf_counter() - start,
        "convert_peak_bytes": peak_bytes(),
    }


def row_of(name: str, found: dict[str, Any]) -> list[object]:
    per_try = found["seconds"] / found["perturbations"]
    allowed = MARK_BYTES + 2 * found["model_bytes"]
    memory = max(found["peak_bytes"], found["convert_peak_bytes"])
    return [
        name,
        found["samples"],
        found["perturbations"],
        found["schemes"],
        f"{found['seconds']:.1f}",
        f"{per_try / found['single_s']:.2f}",
        f"{per_try / found['batched_s']:.2f}",
        f"{found['seconds'] / found['schemes'] / found['single_s']:.2f}",
        f"{found['to_plan_s']:.0f}",
        f"{memory / 1e6:.0f} of {allowed / 1e6:.0f}",
    ]


HEADER = (
    "model", "samples", "perturbations", "(layer, scheme)", "effects s", "passes per perturbation",
    f"the same, batches of {BATCH}", "passes per (layer, scheme)", "start to plan s", "peak MB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--one", choices=("effects", "plan"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name = options.models[0]
        found = (
            effects_cost(name, options.samples, options.profile)
            if options.one == "effects"
            else to_plan(name, options.samples)
        )
        print(json.dumps(found))
        return
    print(f"{machine()}; effects with {workers()} threads")
    rows = []
    for name in options.models or CNNS:
        answers: dict[str, Any] = {}
        for part in ("effects", "plan"):  # each with a peak memory of its own
            command = [sys.executable, "-m", "benchmarks.effects_cost", name, "--one", part]
            command += ["--samples", str(options.samples), *(["--profile"] if options.profile else [])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            answers |= json.loads(done.stdout.splitlines()[-1])
        rows.append(row_of(name, answers))
    print(table_of(HEADER, rows))
    print(f"marks: {MARK_PASSES} passes per (layer, scheme); squeezenet1.1 {MARK_SECONDS:.0f} s to the plan")


if __name__ == "__main__":
    main()
