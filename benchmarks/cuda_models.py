"""The zoo's transformers in uniform plans, for `benchmarks/cuda_provider.py` to run on a GPU.

    ONNXMPQ_ZOO=... python -m benchmarks.cuda_models FOLDER [MODEL ...]

Each plan gives every region the last scheme of its list that the target offers it; what is left is float16. Beside each
model lie a test sample and what the CPU provider computes of it. Weights are rounded to nearest. Printed are the file's
bytes and the target's prediction in microseconds, for one sample and for 64.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from benchmarks.zoo import arrays, zoo
from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import load_feeds
from onnxmpq.menu import bounded_activations, candidates, observed_tensors, one_activation_format, without_underflow
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import observe_ranges
from onnxmpq.runtimes import input_specs, open_session, run
from onnxmpq.schemes import Scheme
from onnxmpq.target import load_target, roofline_table
from onnxmpq.workbench import prepare_bench

MODELS = ("gpt_char", "vit_tiny")
SAMPLES = 4
BATCHES = (1, 64)
PLANS = {
    "fp32": ("h200-cuda", ("fp32",)),
    "fp16": ("h200-cuda", ("fp16",)),
    "w8a16": ("h200-cuda", ("fp16", "w8a16")),
    "w4a16": ("h200-cuda", ("fp16", "w4a16")),
    "tensorrt-w4a16": ("h200", ("fp16", "w4a16")),
    "tensorrt-fp8": ("h200", ("fp16", "w8a8-fp8")),
    "tensorrt-w4a8-fp8": ("h200", ("fp16", "w4a8-fp8")),
    "tensorrt-int8": ("h200", ("fp16", "w8a8-int8")),
}
"""Name -> target whose dialect writes it, schemes."""


def planned(
    model: Model, target: str, schemes: Sequence[str], samples: dict[str, np.ndarray]
) -> tuple[onnx.ModelProto, list[float]]:
    """The model with every region in the last of the schemes that it has, and predicted seconds for each batch."""
    feeds = load_feeds(samples, input_specs(open_session(model.proto)), limit=SAMPLES)
    device, silent = load_target(target), Context()
    dialect = DIALECTS[device.dialect]
    menu = one_activation_format(model, candidates(model, device, dialect, (), schemes))
    plan: dict[str, Scheme] = {}
    for region, row in menu.items():
        offered = [s for wanted in schemes for s in row if s.name == wanted]
        if offered:
            plan[region] = offered[-1]
    shapes = float_shapes(model, feeds)
    served = {batch: device.serving(batch) for batch in BATCHES}
    seconds = [batch * roofline_table(model, d, shapes, menu).predict_s(model, plan) for batch, d in served.items()]
    if not plan:
        return model.proto, seconds
    observation = observe_ranges(model, observed_tensors(model, menu), feeds, silent)
    bench = prepare_bench(model, menu, observation, dialect, silent)
    fits = without_underflow(model, bounded_activations(model, menu, observation.histograms), bench.weights)
    return bench.build({region: scheme for region, scheme in plan.items() if scheme in fits[region]}), seconds


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        entry = zoo().load(name)
        model = prepare(entry.model)
        for title, (target, schemes) in PLANS.items():
            proto, seconds = planned(model, target, schemes, arrays(entry, "calib", SAMPLES))
            session = open_session(proto)
            feeds = load_feeds(arrays(entry, "test", 1), input_specs(session), limit=1).batch([0])
            found = dict(zip([o.name for o in proto.graph.output], run(session, feeds), strict=True))
            stem = folder / f"{name}__{title}"
            onnx.save(proto, stem.with_suffix(".onnx"))
            stored = {f"in/{k}": v for k, v in feeds.items()} | {f"out/{k}": v for k, v in found.items()}
            np.savez(stem.with_suffix(".npz"), **stored)
            predicted = ", ".join(f"{1e6 * s:.0f}" for s in seconds)
            print(f"| {name} | {title} | {stem.with_suffix('.onnx').stat().st_size} | {predicted} |", flush=True)


if __name__ == "__main__":
    main()
