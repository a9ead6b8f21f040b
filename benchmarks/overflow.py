"""Which int8 weights onnxruntime's kernels compute exactly, on this CPU and on emulated ones (docs/overflow.md).

    python -m benchmarks.overflow [CPU ...] [--seeds 3]

CPU: models of `qemu-x86_64 -cpu`, beside this machine as it is. Per kind of layer and shape, with activations that take
each filter to its extremes: weights at the edge of the bound must be exact; weights beyond it by 1 in one pair, and
random ones of all codes, are compared with exact sums and with sums of pairs in 16 bits. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import onnxruntime as ort

from benchmarks import emulation
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.cpu import cpu_features, cpu_model
from tests.kernels import (
    Attention,
    Codes,
    Convolution,
    Product,
    Recurrence,
    Setting,
    Subject,
    least_beyond,
    within,
)

TAILS = (*range(1, 41), 63, 130, 389)
CHANNELS = (*range(1, 10), 12, 15, 16, 20)
PATIENCE_S = 300  # for one kind of layer and seed under an emulator, which takes less than a minute
FEWEST_WITH_ZERO_POINT = 8  # inputs quantized dynamically, so that both ends of the codes are among them
WINDOWS = ((2, 2), (3, 3), (1, 3), (5, 5), (7, 7))


def products(op: str, rows: Sequence[int]) -> Iterator[Product]:
    for count in rows:
        for inputs in TAILS:
            yield Product(op, count, inputs)
            yield Product(op, count, inputs, 131)


def windows() -> Iterator[Convolution]:
    for window in WINDOWS:
        for channels in CHANNELS:
            yield Convolution(channels, window, pad=1, zero_point=7)
            yield Convolution(channels, window, stride=2, ragged=True)
            yield Convolution(channels, window, dilation=2)


def grouped() -> Iterator[Convolution]:
    for channels, groups in ((1, 4), (2, 3), (3, 4), (4, 2), (8, 2), (5, 3)):
        for window in ((1, 1), (3, 3)):
            yield Convolution(channels, window, groups, pad=1, zero_point=200)


def depthwise() -> Iterator[Convolution]:
    for groups in (1, 3, 8, 16, 24, 32, 40):
        for window in ((3, 3), (5, 5), (1, 3), (7, 7), (3,)):
            yield Convolution(1, window, groups, pad=1, zero_point=3, depthwise=True)


def pointwise() -> Iterator[Convolution]:
    for channels in TAILS[:41]:
        for stride in (1, 2):
            yield Convolution(channels, (1, 1), stride=stride)
            yield Convolution(channels, (1, 1), stride=stride, zero_point=128, ragged=True)


def other_ranks() -> Iterator[Convolution]:
    for channels in CHANNELS:
        yield Convolution(channels, (3,), pad=1)
        yield Convolution(channels, (2, 3, 2))


def attention() -> Iterator[Attention]:
    for length in (1, 4):
        for inputs in TAILS:
            yield Attention(length, inputs)
            yield Attention(length, inputs, 131)


def dynamic() -> Iterator[Product]:
    for rows in (1, 5):
        for inputs in TAILS:
            yield Product("DynamicQuantizeMatMul", rows, inputs)
            if inputs >= FEWEST_WITH_ZERO_POINT:
                yield Product("DynamicQuantizeMatMul", rows, inputs, 131)


def recurrences(recurrent: bool) -> Iterator[Recurrence]:
    for rows in (1, 5):
        for inputs in TAILS:
            yield Recurrence(inputs, rows, recurrent)
            if inputs >= FEWEST_WITH_ZERO_POINT:
                yield Recurrence(inputs, rows, recurrent, 131)


def signed() -> Iterator[Subject]:
    for inputs in (3, 16, 37):
        for op in ("MatMul", "Gemm"):
            yield Product(op, 3, inputs, 100, signed=True)
        yield Convolution(inputs, (3, 3), pad=1, zero_point=128, signed=True)


def unsigned_weights() -> Iterator[Subject]:
    for inputs in (3, 16, 37):
        for op in ("MatMul", "Gemm", "MatMulInteger"):
            yield Product(op, 3, inputs, 9, unsigned_weights=True)
        yield Convolution(inputs, (3, 3), pad=1, unsigned_weights=True)


@dataclass(frozen=True)
class Kind:
    """Layers of one row of the table. prepack: False where the session packs weights at every run."""

    name: str
    subjects: Callable[[], Iterator[Subject]]
    prepack: bool = True


KINDS = (
    Kind("MatMul, 1 row", lambda: products("MatMul", (1,))),
    Kind("MatMul, 1 row, not prepacked", lambda: products("MatMul", (1,)), prepack=False),
    Kind("MatMul, 2 to 7 rows", lambda: products("MatMul", (2, 4, 7))),
    Kind("MatMul, 2 to 7 rows, not prepacked", lambda: products("MatMul", (2, 4, 7)), prepack=False),
    Kind("Gemm", lambda: products("Gemm", (1, 5))),
    Kind("Gemm with transB", lambda: products("Gemm transB", (1, 5))),
    Kind("MatMulInteger", lambda: products("MatMulInteger", (1, 5))),
    Kind("DynamicQuantizeMatMul", dynamic),
    Kind("QAttention", attention),
    Kind("QAttention, not prepacked", attention, prepack=False),
    Kind("DynamicQuantizeLSTM, inputs", lambda: recurrences(recurrent=False)),
    Kind("DynamicQuantizeLSTM, states", lambda: recurrences(recurrent=True)),
    Kind("DynamicQuantizeLSTM, states, not prepacked", lambda: recurrences(recurrent=True), prepack=False),
    Kind("Conv 1x1", pointwise),
    Kind("Conv 2x2 to 7x7", windows),
    Kind("Conv 2x2 to 7x7, not prepacked", windows, prepack=False),
    Kind("Conv, groups", grouped),
    Kind("Conv of 1 and 3 dimensions", other_ranks),
    Kind("Conv, depthwise", depthwise),
    Kind("MatMul, Gemm, Conv of int8 Q/DQ pairs", signed),
    Kind("MatMulInteger of int8", lambda: (replace(p, signed=True) for p in products("MatMulInteger", (3,)))),
    Kind("uint8 weights", unsigned_weights),
)


@dataclass(frozen=True)
class Row:
    """Counts of runs of one kind of layer.

    within: with weights at the edge of the bound, exact_within of them exact. beyond, wild: with a pair beyond it by 1,
    with random codes; of those how many were exact, and how many what sums of pairs in 16 bits make of them.
    """

    name: str
    within: int
    exact_within: int
    beyond: int
    exact_beyond: int
    paired_beyond: int
    wild: int
    exact_wild: int
    paired_wild: int


def row(kind: Kind, seeds: int) -> Row:
    counts = np.zeros(8, np.int64)
    for subject in kind.subjects():
        for seed in range(seeds):
            counts += _tried(subject, kind.prepack, np.random.default_rng(seed), seed)
    return Row(kind.name, *counts.tolist())


def _tried(subject: Subject, prepack: bool, generator: np.random.Generator, seed: int) -> Codes:
    single = isinstance(subject, Convolution) and subject.depthwise
    shape = (subject.groups, 1 if single else 2, subject.inputs)
    exactly = Setting(prepack=prepack, seed=seed)
    paired = replace(exactly, saturating=True)
    inside = within(generator, shape)
    found = [1, int(subject.computed(inside, exactly).equal)]
    beyond = least_beyond(generator, inside) if subject.inputs > 1 else None
    for weights in (beyond, generator.integers(-128, 128, shape)):
        tried = [subject.computed(weights, s).equal for s in (exactly, paired)] if weights is not None else []
        found += [len(tried) // 2, *(map(int, tried) if tried else (0, 0))]
    return np.array(found)


def emulated(cpu: str, seeds: int) -> dict[str, object]:
    """The same in an emulator, in a process for each kind of layer."""
    machine, command = emulation.emulated(cpu), ["-m", "benchmarks.overflow", "--seeds", str(seeds), "--kind"]
    done = [emulation.patiently(machine, [*command, kind.name], PATIENCE_S * seeds) for kind in KINDS]
    parts = [json.loads(output.splitlines()[-1]) for output in done]
    return {"saturates": any(p["saturates"] for p in parts), "rows": [r for p in parts for r in p["rows"]]}


def native(kinds: Sequence[Kind], seeds: int) -> dict[str, object]:
    return {"saturates": bool(probes.saturates()), "rows": [asdict(row(kind, seeds)) for kind in kinds]}


def show(title: str, result: dict[str, object]) -> None:
    print(f"\n{title}; the probe says: {'saturates' if result['saturates'] else 'exact'}\n")
    print("| layer | within the bound: exact | 1 beyond: exact | as pairs | random codes: exact | as pairs |")
    print("|---|---|---|---|---|---|")
    rows = result["rows"]
    assert isinstance(rows, list)
    for r in (Row(**fields) for fields in rows):
        cells = [f"{r.exact_within} of {r.within}"]
        cells += [f"{n} of {r.beyond}" for n in (r.exact_beyond, r.paired_beyond)]
        cells += [f"{n} of {r.wild}" for n in (r.exact_wild, r.paired_wild)]
        print(f"| {r.name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cpus", nargs="*", metavar="CPU")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(native([k for k in KINDS if k.name == arguments.kind], arguments.seeds)))
        return
    print(f"onnxruntime {ort.__version__}, NumPy {np.__version__}")
    show(f"{cpu_model()} ({', '.join(cpu_features())})", native(KINDS, arguments.seeds))
    for cpu in arguments.cpus:
        show(f"{cpu}, emulated", emulated(cpu, arguments.seeds))


if __name__ == "__main__":
    main()
