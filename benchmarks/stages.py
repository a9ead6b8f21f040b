"""The pipeline's stages up to the cost table, for benchmarks that look at one stage of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.zoo import arrays, zoo
from onnxmpq.allocate import Problem, pose
from onnxmpq.context import Context
from onnxmpq.cost.measure import Effort, Profile, Profiler, interleaved_s
from onnxmpq.cost.profile import fit_table
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.menu import Menu, candidates, observed_tensors, proven, worthwhile
from onnxmpq.model import Model, prepare
from onnxmpq.profiling import profile
from onnxmpq.ranges import observe_ranges
from onnxmpq.runtimes import REFERENCE, Call, Rules, SessionSettings, open_session
from onnxmpq.runtimes.onnxruntime.cpu import cpu_model
from onnxmpq.samples import gather_samples
from onnxmpq.schemes import Scheme
from onnxmpq.target.load import load_target
from onnxmpq.workbench import Workbench, prepare_bench

SAMPLES = 8  # activation ranges do not change latency: few will do
THREADS = 1


@dataclass(frozen=True)
class Profiled:
    """A zoo model with its cost table on this machine.

    uniform: how many of the profiles are uniform plans. profiling_s: what measuring and fitting took.
    """

    name: str
    entry: Any
    model: Model
    samples: dict[str, np.ndarray]
    menu: Menu
    bench: Workbench
    profiler: Profiler
    profiles: list[Profile]
    uniform: int
    rules: Rules
    table: CostTable
    profiling_s: float

    def problem(self) -> Problem:
        """Allocation on this table, effects unknown (all zero)."""
        return pose(self.model, worthwhile(self.menu, self.table.node_s), self.table, None, dict(self.bench.weights))

    def after(self, further: Sequence[Profile]) -> Profiled:
        """The same, with the table fitted again to these profiles also."""
        profiles = [*self.profiles, *further]
        table = fit_table(self.model, profiles, self.uniform, {}, self.rules)
        return replace(self, profiles=profiles, table=table)

    def measured_s(
        self, plans: Sequence[Mapping[str, Scheme]], effort: Effort, others: Sequence[Path] = ()
    ) -> list[float]:
        """Seconds of one run of each plan, then of the other models, all interleaved with fp32 in one process.

        Median over the rounds of the ratio to fp32, times fp32's seconds when the model was profiled.
        """
        models: list[onnx.ModelProto | Path] = [*(self.bench.build(p) for p in plans), *others]
        sessions = [open_session(m, self.profiler.settings) for m in (self.profiler.model.proto, *models)]
        reference, *times = interleaved_s([Call.of(s, self.profiler.feeds) for s in sessions], effort)
        return [float(np.median(t / reference)) * self.profiler.reference_s for t in times]


def profiled(name: str, seed: int = 0) -> Profiled:
    """Every stage of `onnxmpq.convert` up to the fitted cost table."""
    entry, device, context = zoo().load(name), load_target("cpu"), Context(seed=seed)
    model = prepare(entry.model)
    samples = arrays(entry, "calib", SAMPLES)
    feeds = gather_samples(model, samples, None, SAMPLES, context).calibration
    dialect = DIALECTS[device.dialect]
    menu = candidates(model, device, dialect)
    observation = observe_ranges(model, observed_tensors(model, menu), feeds, context)
    bench = prepare_bench(model, menu, observation, dialect, context)
    start = time.perf_counter()
    profiler = Profiler(model, feeds.batch([0]), SessionSettings(threads=THREADS), Effort())
    rules = REFERENCE.rules(model, {t: len(s) for t, s in float_shapes(model, feeds).items()})
    profiles, uniform = profile(profiler, menu, rules, bench, context)
    menu = proven(model, menu, profiles, REFERENCE)
    table = fit_table(model, profiles, uniform, {}, rules)
    spent_s = time.perf_counter() - start
    return Profiled(name, entry, model, samples, menu, bench, profiler, profiles, uniform, rules, table, spent_s)


def models(wanted: Sequence[str]) -> list[str]:
    """The models asked for, else the whole zoo."""
    return list(wanted) or list(zoo().names())


def machine() -> str:
    """One line: CPU, threads, onnxruntime version, date."""
    features = [f for f in ("avx2", "avx512_vnni", "amx_int8") if f in _cpu_flags()]
    cpu = f"{cpu_model()} ({platform.machine()}{''.join(', ' + f for f in features)})"
    return f"{cpu}, {THREADS} thread, onnxruntime {ort.__version__}, {date.today().isoformat()}"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def table_of(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def show(text: str, destination: Path | None) -> None:
    """Print the result, and write it where it was asked for."""
    print(f"\n{text}")
    if destination:
        destination.write_text(text + "\n", encoding="utf-8")
