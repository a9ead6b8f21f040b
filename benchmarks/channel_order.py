"""The order of channels under the bound on pairs of int8 weights: what it gains (docs/overflow.md).

    ONNXMPQ_ZOO=... python -m benchmarks.channel_order [MODEL ...] [--random 4] [--test 200] [--layers]

Each model in int8 wherever that fuses, weights rounded by `best` for 48 calibration samples: of the full range, within
the bound with channels as they are, in random orders, and in the order of `onnxmpq.rescale.best_order`. Printed are the
SQNR of weights, mean over layers, and that of the outputs on test samples: with activations in float32, so that weights
alone make the error, and in int8. All of exact arithmetic. MODEL: of the zoo, or `digits_cnn` of the samples.
`--layers` prints instead by how many dB the SQNR of each layer's weight falls within the bound, rounded to nearest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.uint8_weights import losses_db
from benchmarks.zoo import arrays, session, sqnr_db, zoo
from onnxmpq.allocate import int8_everywhere
from onnxmpq.context import Context
from onnxmpq.deployment import DeployCpu
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import load_feeds
from onnxmpq.menu import BOUND_LOSS_DB, candidates, observed_tensors, weight_formats
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import observe_ranges
from onnxmpq.rescale import best_order, find_exchangeable, reordered
from onnxmpq.runtimes import REFERENCE, SessionSettings, cpu_features, cpu_model, input_specs, open_session
from onnxmpq.target import load_target
from onnxmpq.weights import round_for_inputs, without
from onnxmpq.workbench import prepare_bench

DEFAULT = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "gpt_char", "digits_cnn")
SAMPLES = Path(__file__).parent.parent / "samples"
CALIBRATION, DIALECT, DEVICE = 48, DIALECTS["onnxruntime"], load_target("cpu")


class Subject:
    """A model and its samples."""

    def __init__(self, name: str, test: int) -> None:
        entry: Any = None if name == "digits_cnn" else zoo().load(name)
        self.model = prepare(SAMPLES / f"{name}.onnx" if entry is None else entry.model)
        splits = {"calib": CALIBRATION, "test": test}
        if entry is None:
            found = {s: dict(np.load(SAMPLES / f"digits_{s}.npz")) for s in splits}
            self.samples = {s: {k: v[: splits[s]] for k, v in found[s].items()} for s in splits}
        else:
            self.samples = {split: arrays(entry, split, limit) for split, limit in splits.items()}
        self.feeds = load_feeds(self.samples["calib"], input_specs(open_session(self.model.proto)), limit=CALIBRATION)
        self.reference = session(self.model.proto)

    def row(self, model: Model, cpu: DeployCpu) -> list[float]:
        """SQNR in dB: weights, outputs with float32 activations, outputs with int8 activations."""
        silent = Context()
        menu = candidates(model, DEVICE, DIALECT, requested=["int8"], cpu=cpu)
        rules = REFERENCE.rules(model, {t: len(s) for t, s in float_shapes(model, self.feeds).items()})
        plan = int8_everywhere(model, menu, rules)
        observation = observe_ranges(model, observed_tensors(model, menu), self.feeds, silent)
        bench = prepare_bench(model, menu, observation, DIALECT, silent)
        formats = weight_formats(model, menu)
        bench = bench.with_weights(round_for_inputs(model, formats, self.feeds, without(()), silent))
        weights, changed = [], {}
        for region in model.layers:
            scheme = plan.get(region.name)
            if scheme is not None and scheme.weight is not None:
                w, kept = model.weight(region), bench.weights[region.name, scheme.weight.name].dequantize()
                weights.append(10 * np.log10(np.square(w).sum() / np.square(w - kept).sum()))
                changed[region.params.weight] = region.params.stored(kept)
        plain = open_session(bench.build(plan), SessionSettings(optimize=False))
        test = self.samples["test"]
        in_float = session(model.with_tensors(changed).proto)
        return [float(np.mean(weights)), *(sqnr_db(self.reference, other, test) for other in (in_float, plain))]


def random_orders(model: Model, count: int) -> Iterator[Model]:
    channels = find_exchangeable(model.structure)
    for seed in range(count):
        generator, order = np.random.default_rng(seed), np.arange(channels.count)
        for number in np.unique(channels.alike):
            members = np.flatnonzero(channels.alike == number)
            order[members] = generator.permutation(members)
        yield reordered(model, channels, order)


def rows(subject: Subject, random: int) -> Iterator[tuple[str, list[float], str]]:
    model = subject.model
    yield "full range", subject.row(model, DeployCpu.VNNI), ""
    yield "bound, as it is", subject.row(model, DeployCpu.ANY), ""
    found = np.array([subject.row(m, DeployCpu.ANY) for m in random_orders(model, random)])
    if random:
        spread = " / ".join(f"{s:.2f}" for s in found.std(axis=0, ddof=min(1, random - 1)))
        yield f"bound, {random} random orders", found.mean(axis=0).tolist(), f"standard deviation {spread}"
    channels, start = find_exchangeable(model.structure), time.process_time()
    order, _, _ = best_order(model, channels)
    took = time.process_time() - start
    moved = np.count_nonzero(order != np.arange(channels.count))
    note = f"{moved} of {channels.count} channels moved in {took:.1f} CPU s"
    yield "bound, ordered", subject.row(reordered(model, channels, order), DeployCpu.ANY), note


def show_layers(names: Sequence[str]) -> None:
    print("| model | layers | order is free | channels moved | CPU s | median dB | most | more than 2 dB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        model = prepare(zoo().load(name).model)
        channels, start = find_exchangeable(model.structure), time.process_time()
        order, _, _ = best_order(model, channels)
        seconds = time.process_time() - start
        both = losses_db(model), losses_db(reordered(model, channels, order))
        free = sum(region.name in channels.reads for region in model.layers)
        moved = f"{np.count_nonzero(order != np.arange(channels.count))} of {channels.count}"
        cells = [len(both[0]), free, moved, f"{seconds:.1f}"]
        cells += [" → ".join(f"{f(found):.2f}" for found in both) for f in (np.median, np.max)]
        cells.append(" → ".join(str(int((found > BOUND_LOSS_DB).sum())) for found in both))
        print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--random", type=int, default=4)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--layers", action="store_true")
    options = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, NumPy {np.__version__}, {cpu_model()} ({', '.join(cpu_features())})\n")
    if options.layers:
        return show_layers(options.models)
    print("| model | weights in int8 | weights | outputs, float32 activations | outputs, int8 activations | |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.models:
        for title, values, note in rows(Subject(name, options.test), options.random):
            print(f"| {name} | {title} | {' | '.join(f'{v:.2f}' for v in values)} | {note} |", flush=True)


if __name__ == "__main__":
    main()
