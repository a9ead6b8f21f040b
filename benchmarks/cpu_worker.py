"""Run models on given inputs and keep their outputs: the part of benchmarks.cpus that runs under an emulator.

    python cpu_worker.py JOBS INPUTS OUT

JOBS: a JSON list of {"name", "model", "entries", "optimize", "samples"}. INPUTS: an .npz, one array per input, first
axis samples. Each job's model runs in a session of one thread, sample by sample on the first `samples` of them.
OUT/name.npz then holds `output_0`, `output_1`, ... (first axis samples) and `runtime`, a line on versions and machine.
Jobs whose file exists are left out, so that a process that was stopped can be started again.
Needs NumPy and onnxruntime only; nothing of onnxmpq, so that any interpreter with these two can run it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort


def open_model(path: Path, entries: Mapping[str, str], *, optimize: bool = True) -> ort.InferenceSession:
    """A session of one thread on the CPU. entries: its configuration. optimize: False for ORT_DISABLE_ALL, the graph
    as it is written."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs_of(session: ort.InferenceSession, inputs: Mapping[str, np.ndarray], samples: int) -> list[np.ndarray]:
    """All outputs of the first `samples` samples, first axis samples."""
    found = [session.run(None, {name: a[i : i + 1] for name, a in inputs.items()}) for i in range(samples)]
    return [np.concatenate(values) for values in zip(*found, strict=True)]


def store(path: Path, outputs: list[np.ndarray]) -> None:
    runtime = f"onnxruntime {ort.__version__}, NumPy {np.__version__}, {platform.machine()}"
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, runtime=runtime, **{f"output_{i}": a for i, a in enumerate(outputs)})
    os.replace(part, path)


def main(jobs: Path, inputs: Path, out: Path) -> None:
    with np.load(inputs) as file:
        samples = dict(file)
    for job in json.loads(jobs.read_text()):
        path = out / f"{job['name']}.npz"
        if not path.exists():
            session = open_model(Path(job["model"]), job["entries"], optimize=job["optimize"])
            store(path, outputs_of(session, samples, job["samples"]))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
