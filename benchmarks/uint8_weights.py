"""uint8 weights beside int8 ones: what their kernels cost, and what int8 weights lose by the bound (docs/overflow.md).

    python -m benchmarks.uint8_weights [MODEL ...] [--rounds 5] [--losses]

Each model in int8 wherever that fuses, and the same with u8u8 for all its layers, timed in turns on one thread: the
whole model, and each layer's kernel by the runtime's profiler, in ms, minimum over rounds. `--losses` times nothing: it
prints by how many dB the SQNR of each layer's weight falls where no pair of its int8 codes may saturate.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnxruntime as ort

from benchmarks.zoo import arrays, zoo
from onnxmpq.cost.layout import layout_roles
from onnxmpq.cost.measure import Effort, Profiler
from onnxmpq.dialects import DIALECTS
from onnxmpq.feeds import load_feeds
from onnxmpq.menu import BOUND_LOSS_DB, bound_loss_db, candidates
from onnxmpq.model import Model, prepare
from onnxmpq.progress import Progress
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtime import SessionSettings, input_specs, open_session
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.cpu import cpu_features, cpu_model
from onnxmpq.schemes import INT8_WEIGHTS, SCHEMES, Scheme
from onnxmpq.stages.costs import float_shapes, int8_everywhere
from onnxmpq.stages.ranges import calibrate, prepare_bench
from onnxmpq.target.load import load_target

TIMED = ("resnet20_cifar10", "squeezenet1.1")
ALL = (*TIMED, "mobilenet_v1_0.25", "vit_tiny", "gpt_char", "yolov8n")
SAMPLES = 8  # for plausible activation ranges
U8U8, DIALECT = SCHEMES["u8u8"], DIALECTS["onnxruntime"]
EFFORT = Effort(seconds=1.0, runs=20, rounds=5)


def losses(model: Model) -> dict[str, float]:
    """Layer -> dB."""
    menu, _ = candidates(model, load_target("cpu"), DIALECT)
    layers = [r for r in model.layers if U8U8 in menu[r.name]]
    weights = {(r.name, INT8_WEIGHTS.name): quantize_weight(model.weight(r), INT8_WEIGHTS) for r in layers}
    return {r.name: bound_loss_db(model, r, U8U8, weights) for r in layers}


def show_losses(names: list[str]) -> None:
    print(f"| model | layers | lose nothing | median dB | most | more than {BOUND_LOSS_DB:g} dB |")
    print("|---|---|---|---|---|---|")
    for name in names:
        found = np.array(list(losses(prepare(zoo().load(name).model)).values()))
        cells = [len(found), int((found == 0).sum()), f"{np.median(found):.2f}", f"{found.max():.2f}"]
        print(f"| {name} | {' | '.join(map(str, cells))} | {int((found > BOUND_LOSS_DB).sum())} |")


def show_times(name: str, rounds: int) -> None:
    entry = zoo().load(name)
    model = prepare(entry.model)
    specs = input_specs(open_session(model.proto))
    feeds = load_feeds(arrays(entry, "calib", SAMPLES), specs, limit=SAMPLES)
    menu, _ = candidates(model, load_target("cpu"), DIALECT)
    layout = layout_roles(model, {t: len(s) for t, s in float_shapes(model, feeds).items()})
    silent = Progress()
    bench = prepare_bench(model, menu, calibrate(model, menu, feeds, silent), DIALECT, silent)
    int8 = int8_everywhere(model, menu, layout)
    layers = [r.name for r in model.layers if r.name in int8]
    plans: dict[str, dict[str, Scheme]] = {"int8": int8, "u8u8": int8 | dict.fromkeys(layers, U8U8)}
    profiler = Profiler(model, feeds.batch([0]), SessionSettings(), EFFORT)
    walls: dict[str, list[float]] = {kernel: [] for kernel in plans}
    kernels: dict[str, dict[str, list[float]]] = {n: {kernel: [] for kernel in plans} for n in layers}
    for _ in range(rounds):
        for kernel, plan in plans.items():
            profile = profiler.profile(plan, bench.build(plan))
            walls[kernel].append(profile.wall_s)
            for layer in layers:
                kernels[layer][kernel].append(profile.region_s[layer])
    print(f"\n### {name}: fp32 {profiler.reference_s * 1e3:.3f} ms\n")
    print("| layer | weight | int8 ms | u8u8 ms | ratio |\n|---|---|---|---|---|")
    rows = [(n, "x".join(map(str, model.region(n).params.weight_shape)), kernels[n]) for n in layers]
    rows.append(
        ("all these kernels", "", {k: [sum(kernels[n][k][i] for n in layers) for i in range(rounds)] for k in plans})
    )
    rows.append(("the whole model", "", walls))
    for row, shape, times in rows:
        signed, unsigned = (min(times[k]) * 1e3 for k in plans)
        print(f"| {row} | {shape} | {signed:.4f} | {unsigned:.4f} | {unsigned / signed:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--losses", action="store_true")
    arguments = parser.parse_args()
    if arguments.losses:
        show_losses(arguments.models or list(ALL))
        return
    exact = "saturates" if probes.saturates() else "is exact"
    print(f"onnxruntime {ort.__version__}, {cpu_model()} ({', '.join(cpu_features())}); int8 {exact}; one thread")
    for name in arguments.models or TIMED:
        show_times(name, arguments.rounds)


if __name__ == "__main__":
    main()
