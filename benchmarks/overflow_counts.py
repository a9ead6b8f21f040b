"""Counts of `check --calib` against the kernels: are exactly the counted output values those that a CPU changes?

    python -m benchmarks.overflow_counts [MODEL ...] [--cpu Haswell] [--samples 2]

Random Conv layers run as they are. Layers of static int8 zoo models run as MatMulInteger on windows of real samples
in the order of `runtimes/onnxruntime/kernel_order.py`, since a Conv rounds its sums to 8 bits. Each runs here (sums
should be exact) and on the emulated CPU. Values that differ are compared with the counts by channel.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from benchmarks.emulation import emulated, patiently
from benchmarks.overflow import PATIENCE_S
from benchmarks.zoo import arrays, static_int8, zoo
from onnxmpq.execution import with_outputs
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.saturation.counts import Codes, codes_of, columns, count
from onnxmpq.saturation.layers import Source, Watched, Window, suspects
from tests.kernels import Convolution, Setting

CONVOLUTIONS = {
    "1x1": Convolution(16, (1, 1)),
    "3x3": Convolution(3, (3, 3), pad=1, zero_point=200),
    "3x3 of 8 channels": Convolution(8, (3, 3), pad=1, zero_point=7),
    "7x7, stride 2": Convolution(3, (7, 7), stride=2, pad=3, zero_point=255),
    "3x3, 4 groups": Convolution(3, (3, 3), groups=4, pad=1, zero_point=130),
    "3x3, dilation 2": Convolution(5, (3, 3), dilation=2, pad=2, zero_point=99),
    "one dimension": Convolution(3, (5,), pad=2),
}


def random_layer(name: str) -> tuple[Codes, np.ndarray]:
    """(images, filters) of a layer of `CONVOLUTIONS`."""
    layer = CONVOLUTIONS[name]
    filters = np.random.default_rng(0).integers(-128, 128, (layer.groups, 3, layer.inputs))
    return layer.images(filters, Setting()), filters


def counted(name: str) -> list[int]:
    layer, (images, filters) = CONVOLUTIONS[name], random_layer(name)
    rank = len(layer.window)
    steps = ((layer.stride,) * rank, (layer.dilation,) * rank)
    window = Window(layer.window, *steps, (layer.pad,) * 2 * rank, "NOTSET", layer.zero_point)
    watched = Watched(name, Source("x", "codes"), filters.astype(np.int8), 255, window)
    return count(watched, images.astype(np.uint8)).affected.tolist()


def real_layers(name: str, folder: Path, samples: int) -> Iterator[tuple[str, list[int]]]:
    """(file of rows and filters, counts) of every layer of a static int8 model that can saturate."""
    entry = zoo().load(name)
    given = arrays(entry, "calib", 64)
    found = suspects(onnx.load(static_int8(entry, given, folder / f"{name}.onnx")))
    layers = [s.watched for s in found.found if s.watched is not None]
    session = open_session(
        with_outputs(found.proto, [w.source.tensor for w in layers]), SessionSettings(optimize=False)
    )
    for number, layer in enumerate(layers):
        runs = [
            run(session, {n: a[i : i + 1] for n, a in given.items()}, [layer.source.tensor])[0] for i in range(samples)
        ]
        codes = codes_of(np.concatenate(runs), layer.source)
        [(column, _)] = columns(layer, codes)  # no zoo model has groups but in depthwise layers, which cannot saturate
        [filters] = layer.filters
        path = folder / f"{name}.{number}.npz"
        np.savez(path, rows=np.stack([column(k) for k in range(filters.shape[1])], axis=1), filters=filters)
        yield str(path), count(layer, codes).affected.tolist()


def product(path: str) -> np.ndarray:
    """int32 [rows, filters], by this CPU's kernel."""
    with np.load(path) as stored:
        rows, filters = stored["rows"], stored["filters"]
    head = '<ir_version: 10, opset_import: ["" : 21]>'
    shape = ", ".join(map(str, rows.shape))
    proto = onnx.parser.parse_model(f"{head} g (uint8[{shape}] x) => (int32[A, B] y) {{ y = MatMulInteger (x, w) }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(filters.T), "w"))
    return np.asarray(run(open_session(proto), {"x": rows})[0])


def changed(task: str) -> list[int]:
    """Per channel, values that this CPU's kernel makes other than exact ones. task: a layer's name, or a file."""
    if task in CONVOLUTIONS:
        return CONVOLUTIONS[task].changed_values(*random_layer(task)).tolist()
    with np.load(task) as stored:
        exact = stored["rows"].astype(np.float64) @ stored["filters"].T.astype(np.float64)  # integers below 2**53
    return np.count_nonzero(product(task) != exact, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--cpu", default="Haswell")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps({"changed": changed(options.task), "saturates": bool(probes.saturates())}))
        return
    with tempfile.TemporaryDirectory() as folder:
        tasks = [(name, name, counted(name)) for name in CONVOLUTIONS]
        for model in options.models:
            tasks += [(Path(p).stem, p, c) for p, c in real_layers(model, Path(folder), options.samples)]
        print(f"| layer | channels | counted | changed here | changed on {options.cpu} | channels equal |")
        print("|---|---|---|---|---|---|")
        machine, command = emulated(options.cpu), ["-m", "benchmarks.overflow_counts", "--task"]
        for name, task, counts in tasks:
            there = json.loads(patiently(machine, [*command, task], PATIENCE_S).splitlines()[-1])["changed"]
            equal = sum(a == b for a, b in zip(counts, there, strict=True))
            print(
                f"| {name} | {len(counts)} | {sum(counts)} | {sum(changed(task))} | {sum(there)} | {equal} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
