"""Constants of `sensitivity.menu_effects.forward_seconds`: fitted to measured runs of the zoo's models and the samples.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.forward_cost

Measured: the least CPU time of one run on one thread. Fitted: seconds per multiply-accumulate, per element read or
written and per node, none of them negative, by least squares of relative errors. The last columns are the samples that
effects of the full CPU menu get of 64, by the measurement and by the estimate.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.stages import machine, table_of
from benchmarks.zoo import arrays, zoo
from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.menu import activation_tensors, candidates
from onnxmpq.model import Model, prepare
from onnxmpq.model.work import multiply_accumulates
from onnxmpq.runtimes import open_session, run
from onnxmpq.samples import gather_samples
from onnxmpq.sensitivity.menu_effects import REFERENCE_THREADS, forward_seconds
from onnxmpq.sensitivity.method import affordable
from onnxmpq.target.load import load_target

MODELS = ("resnet20_cifar10", "mobilenet_v1_0.25", "squeezenet1.1", "gpt_char", "vit_tiny", "yolov8n")
SAMPLES = Path(__file__).parents[1] / "samples"
AVAILABLE = 64


@dataclass(frozen=True)
class Measured:
    """work: multiply-accumulates, elements, nodes. seconds: measured; estimate_s: by the constants in the package."""

    name: str
    work: tuple[int, int, int]
    seconds: float
    estimate_s: float
    tries: int


def measured(name: str, source: Any, given: dict[str, np.ndarray]) -> Measured:
    model = prepare(source)
    feeds = gather_samples(model, given, None, 8, Context()).calibration
    shapes = float_shapes(model, feeds)
    macs = sum(multiply_accumulates(r, shapes.__getitem__) for r in model.regions)
    elements = sum(math.prod(shapes[t]) for r in model.regions for t in (*r.inputs, *r.outputs))
    session, inputs, spent_s = open_session(model.proto), feeds.batch([0]), list[float]()
    while len(spent_s) < 5 or sum(spent_s) < 2.0:
        start = time.process_time()
        run(session, inputs)
        spent_s.append(time.process_time() - start)
    work = macs, elements, len(model.structure.graph.node)
    return Measured(name, work, min(spent_s), REFERENCE_THREADS * forward_seconds(model, shapes), tries_of(model))


def tries_of(model: Model) -> int:
    """Perturbations of the CPU target's full menu, with two ranges for each activation."""
    menu = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    weights = {(r.name, s.weight.name) for r in model.layers for s in menu[r.name] if s.weight is not None}
    return len(weights) + 2 * len(activation_tensors(model, menu))


def main() -> None:
    with np.load(SAMPLES / "digits_calib.npz") as file:
        digits = {"image": file["image"][:16]}
    found = [measured(p.name, p, digits) for p in sorted(SAMPLES.glob("digits_*.onnx"))]
    for name in MODELS:
        entry = zoo().load(name)
        found.append(measured(name, entry.model, arrays(entry, "calib", 12)))
    relative = np.array([np.array(m.work) / m.seconds for m in found])
    constants, _ = nnls(relative, np.ones(len(found)))
    rows = []
    for m in found:
        fitted = float(np.dot(constants, m.work))
        samples = [affordable(s / REFERENCE_THREADS, m.tries, AVAILABLE) for s in (m.seconds, m.estimate_s)]
        rows.append(
            (m.name, *m.work, *(f"{s * 1e3:.2f}" for s in (m.seconds, fitted, m.estimate_s)), m.tries, *samples)
        )
    header = "model", "MACs", "elements", "nodes", "measured ms", "fitted ms", "in use ms", "tries", "samples", "now"
    print(table_of(header, rows))
    print(f"{machine()}; seconds per multiply-accumulate, element and node: {constants}")


if __name__ == "__main__":
    main()
