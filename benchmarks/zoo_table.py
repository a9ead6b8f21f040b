"""The README's table: fp32, onnxruntime static int8 and onnxmpq on every zoo model, timed in one run.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.zoo_table [MODEL ...] [--limit 400] [--out results.json] [--keep DIR]
        [--goal match|fastest] [--deploy-cpu any --deploy-cpu vnni ...] [--reduced]
    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.zoo_table [MODEL ...] --again DIR

Per model: onnxruntime's static int8 (64 calibration samples), then `onnxmpq.convert` with 85 calibration samples (64
for calibration, 21 held out) once within static int8's latency (fp32's where that is lower) and file size, and once
`fastest`. All models are then timed interleaved in one process, one thread, on one input; metric, SQNR and
divergence are taken on test samples that calibration never saw. Also prints wall time and peak memory of each
conversion. --keep keeps the converted models; --again times and scores those of an earlier run once more, for a machine
that was busy then. --deploy-cpu: convert once for each of them, all other options equal, for what each costs on this
machine; without it, the default. --reduced: also static int8 made with `reduce_range`, for CPUs whose kernels saturate.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxmpq
from benchmarks.zoo import arrays, session, sqnr_db, static_int8, zoo
from onnxmpq.cost.measure import Effort, interleaved_s
from onnxmpq.errors import OnnxmpqError
from onnxmpq.feeds import load_feeds
from onnxmpq.model import prepare
from onnxmpq.quality import compare
from onnxmpq.runtimes import Call, SessionSettings, input_specs
from onnxmpq.sensitivity import Evaluator
from onnxmpq.sensitivity.effects import make_divergence

CALIBRATION, HELD_OUT = 64, 21
DIVERGENCE_SAMPLES = 200
GOALS = ("match", "fastest")
LONG = Effort(seconds=8.0, runs=40, rounds=10)


def convert_model(
    name: str, folder: Path, goals: Sequence[str], cpus: Sequence[str], *, reduced: bool
) -> dict[str, Any]:
    """Write static int8 and all conversions into `folder`; file, seconds and layers per scheme by label.

    cpus: deployment CPUs, converted for one after the other within equal budgets; empty for the default.
    """
    entry = zoo().load(name)
    samples = arrays(entry, "calib", CALIBRATION + HELD_OUT)
    static = static_int8(entry, {n: a[:CALIBRATION] for n, a in samples.items()}, folder / "static.onnx")
    done: dict[str, Any] = {"onnxruntime static int8": {"file": static.name}}
    if reduced:
        few = {n: a[:CALIBRATION] for n, a in samples.items()}
        file = static_int8(entry, few, folder / "reduced.onnx", reduce_range=True)
        done["onnxruntime static int8, reduce_range"] = {"file": file.name}
    first = {n: a[:1] for n, a in samples.items()}
    before = interleaved_s([Call.of(session(m), first) for m in (entry.model, static)], Effort(6.0, 40, 10))
    share = min(float(np.median(before[1] / before[0])), 1.0)
    known: dict[str, tuple[str, dict[str, str]]] = {
        "match": ("onnxmpq as fast and small", {"latency": f"{share:.2%}", "size": f"{static.stat().st_size}B"}),
        "fastest": ("onnxmpq fastest", {"latency": "fastest"}),
    }
    deployments = [(f", {cpu}", {"deploy_cpu": cpu}) for cpu in cpus] or [("", {})]
    for (what, budgets), (where, deployment) in product((known[goal] for goal in goals), deployments):
        label = what + where
        start, output = time.perf_counter(), folder / f"{len(done)}.onnx"
        try:
            options: dict[str, Any] = {**budgets, **deployment}
            result = onnxmpq.convert(entry.model, **options, calibration=samples, output=output, cache=False)
        except OnnxmpqError as error:
            print(f"{name}: {label}: exit code {error.exit_code}: {error}", file=sys.stderr)
            continue
        seconds, verdict = time.perf_counter() - start, result.report.verdict
        found: dict[str, Any] = {"options": options, "convert_s": seconds, "layers": result.report.coverage.layers}
        found |= {"verdict": verdict.level, "reasons": verdict.reasons, "met": result.plan.met}
        done[label] = {"file": output.name, **found}
    (folder / "done.json").write_text(json.dumps(done))
    return done


def rows_of(name: str, folder: Path, limit: int) -> list[dict[str, Any]]:
    """Time all models of a folder interleaved with fp32, and score them."""
    entry, done = zoo().load(name), json.loads((folder / "done.json").read_text())
    test, (loss, agreement) = arrays(entry, "test", 50), unseen_quality(entry)
    models = {"fp32": entry.model, **{label: folder / found["file"] for label, found in done.items()}}
    sessions = {label: session(m) for label, m in models.items()}
    times = interleaved_s([Call.of(s, {n: a[:1] for n, a in test.items()}) for s in sessions.values()], LONG)
    rows = []
    for (label, path), seconds in zip(models.items(), times, strict=True):
        rows.append(
            {
                "model": name,
                "what": label,
                "ms": float(np.median(seconds)) * 1e3,
                "min_ms": float(seconds.min()) * 1e3,
                "vs_static": float(np.median(times[1] / seconds)),
                "mb": path.stat().st_size / 1e6,
                "metric_name": entry.meta["metric"],
                "metric": entry.score(lambda f, s=sessions[label]: s.run(None, f), limit),
                "sqnr_db": None if label == "fp32" else sqnr_db(sessions["fp32"], sessions[label], test),
                "divergence": None if label == "fp32" else loss(path),
                "agreement": None if label == "fp32" else agreement(path),
                **done.get(label, {}),
            }
        )
    return rows


def unseen_quality(entry: Any) -> tuple[Callable[[Path], float], Callable[[Path], float | None]]:
    """(divergence, top-1 agreement) of a model file from the entry's fp32 one on test samples."""
    model = prepare(entry.model)
    unseen = load_feeds(arrays(entry, "test", DIVERGENCE_SAMPLES), input_specs(session(entry.model)))
    divergence, _ = make_divergence(model, unseen, 1, threads=1, kinds={})
    evaluator, settings = Evaluator.of(model, divergence, unseen, SessionSettings()), SessionSettings()

    def agreement(path: Path) -> float | None:
        found = compare(entry.model, path, unseen, divergence.kinds, settings=settings, held_out=True, unfused=False)
        return found.agreement

    return lambda path: evaluator.loss(onnx.load(path)), agreement


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README."""
    columns = ("model", "", "ms", "vs static int8", "MB", "metric", "SQNR dB", "divergence", "agreement", "verdict")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for r in rows:
        sqnr = "" if r["sqnr_db"] is None else f"{r['sqnr_db']:.1f}"
        divergence = "" if r["divergence"] is None else f"{r['divergence']:.3g}"
        agreement = "" if r["agreement"] is None else f"{r['agreement']:.1%}"
        lines.append(
            f"| {r['model']} | {r['what']} | {r['ms']:.3f} | {r['vs_static']:.2f}x | {r['mb']:.2f} "
            f"| {r['metric']:.4f} | {sqnr} | {divergence} | {agreement} | {r.get('verdict', '')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--goal", action="append", choices=GOALS, help="default: both")
    parser.add_argument("--deploy-cpu", action="append", help="several times for several conversions")
    parser.add_argument("--reduced", action="store_true", help="also static int8 with reduce_range")
    parser.add_argument("--again", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:  # a process of its own per model, so that peak memory is the model's
        folder = (options.again or options.keep or Path(tempfile.mkdtemp())) / options.models[0]
        if not options.again:
            folder.mkdir(parents=True, exist_ok=True)
            goals, cpus = options.goal or GOALS, options.deploy_cpu or ()
            convert_model(options.models[0], folder, goals, cpus, reduced=options.reduced)
        rows = rows_of(options.models[0], folder, options.limit)
        print(json.dumps({"rows": rows, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    rows = []
    for name in options.models or zoo().names():
        command = [sys.executable, "-m", "benchmarks.zoo_table", name, "--limit", str(options.limit), "--one"]
        command += [part for goal in options.goal or () for part in ("--goal", goal)]
        command += [part for cpu in options.deploy_cpu or () for part in ("--deploy-cpu", cpu)]
        command += ["--reduced"] if options.reduced else []
        for flag, folder in (("--keep", options.keep), ("--again", options.again)):
            command += [flag, str(folder)] if folder else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        sys.stderr.write(done.stderr)
        answer = json.loads(done.stdout.splitlines()[-1])
        rows += answer["rows"]
        seconds = [f"{r['convert_s']:.0f} s" for r in answer["rows"] if r.get("convert_s")]
        print(f"{name}: conversions {', '.join(seconds)}; peak memory {answer['peak_mb']:.0f} MB", file=sys.stderr)
        print(markdown(answer["rows"]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
