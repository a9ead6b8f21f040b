"""What one-at-a-time effects cost, nothing cached: forward passes of the calibration set per (layer, scheme).

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.effects_cost [MODEL ...] [--samples 64] [--effects-only] [--profile]

Marks: at most 0.7 forward passes per (layer, scheme) on the zoo's CNNs; squeezenet1.1 with 64 images from start to plan
in 60 s on 2 cores; memory below 1.5 GB plus twice the model. A forward pass is one run of the fp32 model over the same
samples, one by one; passes are run in between, all in CPU time on one thread, so that other work on the machine does
not count. A perturbation is one weight format of one layer or one candidate range of one tensor; the schemes on the
menu share them. Every model runs in a process of its own. --profile prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import os
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
from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import activation_tensors, activation_type, candidates, observed_tensors
from onnxmpq.model import Model, prepare
from onnxmpq.progress import COMPARING, Progress, Tick
from onnxmpq.ranges import observe_ranges, range_candidates
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.samples import gather_samples
from onnxmpq.sensitivity import Perturbations, measure_effects
from onnxmpq.target.load import load_target
from onnxmpq.workbench import prepare_bench

CNNS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "yolov8n")
SAMPLES, HELD_OUT = 64, 21
PASSES = 12  # forward passes run in between
MARK_PASSES, MARK_SECONDS, MARK_BYTES = 0.7, 60.0, 1.5e9
BEFORE_VALIDATION = COMPARING


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Passes:
    """Runs the fp32 model over all samples every now and then while effects are measured. seconds: CPU, of each."""

    def __init__(self, model: Model, feeds: Feeds, perturbations: int) -> None:
        self.session = open_session(model.proto, SessionSettings())
        self.inputs = [feeds.batch([i]) for i in range(len(feeds))]
        self.every, self.done = perturbations / PASSES, 0
        self.seconds: list[float] = []
        run(self.session, self.inputs[0])

    def __call__(self, perturbations: int) -> None:
        self.done += perturbations
        while len(self.seconds) * self.every < self.done:
            start = time.process_time()
            for inputs in self.inputs:
                run(self.session, inputs)
            self.seconds.append(time.process_time() - start)


def effects_cost(name: str, samples: int, profile: bool) -> dict[str, Any]:
    """CPU seconds of all effects of the full menu, and of a forward pass (median)."""
    entry, device = zoo().load(name), load_target("cpu")
    model = prepare(entry.model)
    feeds = gather_samples(model, arrays(entry, "calib", samples + HELD_OUT), None, samples, Context()).calibration
    menu = candidates(model, device, DIALECTS[device.dialect])
    observation = observe_ranges(model, observed_tensors(model, menu), feeds, Context())
    bench = prepare_bench(model, menu, observation, DIALECTS[device.dialect], Context())
    tensors = activation_tensors(model, menu)
    kind = activation_type(menu)
    weights = {key: (weight,) for key, weight in bench.weights.items()}
    tries = Perturbations(weights, {t: range_candidates(observation, t, kind) for t in tensors})
    passes, profiler = Passes(model, feeds, tries.count), cProfile.Profile()
    start = time.process_time()
    if profile:
        profiler.enable()
    measure_effects(model, feeds, tries, tick=passes)
    profiler.disable()
    seconds = time.process_time() - start - sum(passes.seconds)
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(18)
    return {
        "samples": len(feeds),
        "perturbations": tries.count,
        "schemes": sum(len([s for s in menu[r.name] if not s.is_fp32]) for r in model.layers),
        "cpu_s": seconds,
        "pass_cpu_s": float(np.median(passes.seconds)),
        "peak_bytes": peak_bytes(),
        "model_bytes": model.source_bytes,
    }


class Clock(Progress):
    """Notes when stages begin, in seconds and CPU seconds; the plan is made when validation begins."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float, float]] = [("preparing", time.perf_counter(), cpu_seconds())]

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        self.begun.append((what, time.perf_counter(), cpu_seconds()))
        yield lambda _: None


def to_plan(name: str, samples: int, profile: bool) -> dict[str, Any]:
    """Seconds from start to plan of a whole conversion, with all rounding, measuring and rounds of the closed loop."""
    entry = zoo().load(name)
    given = arrays(entry, "calib", samples + HELD_OUT)
    clock = Clock()
    onnxmpq.convert(entry.model, latency="fastest", calibration=given, samples=samples, cache=False, progress=clock)
    end = next(i for i, (what, _, _) in enumerate(clock.begun) if what == BEFORE_VALIDATION)
    if profile:
        for (what, since, cpu), (_, until, cpu_until) in itertools.pairwise(clock.begun[: end + 1]):
            print(f"{until - since:7.1f} s, CPU {cpu_until - cpu:7.1f} s  {what}", file=sys.stderr)
    (_, since, cpu), (_, until, cpu_until) = clock.begun[0], clock.begun[end]
    return {"to_plan_s": until - since, "to_plan_cpu_s": cpu_until - cpu, "convert_peak_bytes": peak_bytes()}


def row_of(name: str, found: dict[str, Any]) -> list[object]:
    passes = found["cpu_s"] / found["pass_cpu_s"]
    allowed = MARK_BYTES + 2 * found["model_bytes"]
    memory = max(found["peak_bytes"], found.get("convert_peak_bytes", 0))
    return [
        name,
        found["samples"],
        found["perturbations"],
        found["schemes"],
        f"{found['cpu_s']:.1f}",
        f"{passes / found['perturbations']:.2f}",
        f"{passes / found['schemes']:.2f}",
        *(f"{found[part]:.0f}" if part in found else "" for part in ("to_plan_s", "to_plan_cpu_s")),
        f"{memory / 1e6:.0f} of {allowed / 1e6:.0f}",
    ]


HEADER = (
    "model", "samples", "perturbations", "(layer, scheme)", "effects, CPU s", "passes per perturbation",
    "passes per (layer, scheme)", "start to plan s", "CPU s", "peak MB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--effects-only", action="store_true", help="no conversions")
    parser.add_argument("--one", choices=("effects", "plan"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name = options.models[0]
        measure = effects_cost if options.one == "effects" else to_plan
        found = measure(name, options.samples, options.profile)
        print(json.dumps(found))
        return
    print(machine())
    rows = []
    for name in options.models or CNNS:
        answers: dict[str, Any] = {}
        for part in ("effects",) if options.effects_only else ("effects", "plan"):  # each with a peak memory of its own
            command = [sys.executable, "-m", "benchmarks.effects_cost", name, "--one", part]
            command += ["--samples", str(options.samples), *(["--profile"] if options.profile else [])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            answers |= json.loads(done.stdout.splitlines()[-1])
        rows.append(row_of(name, answers))
    print(table_of(HEADER, rows))
    print(f"marks: {MARK_PASSES} passes per (layer, scheme); squeezenet1.1 {MARK_SECONDS:.0f} s to the plan")


if __name__ == "__main__":
    main()
