"""uint8 weights beside int8 ones: what their kernels cost, and what int8 weights lose by the bound (docs/overflow.md).

    python -m benchmarks.uint8_weights [MODEL ...] [--rounds 5] [--losses]

Each model in int8 wherever that fuses, with int8 weights, uint8 weights (u8u8), and u8u8 only for layers whose int8
weights lose much by the bound. SQNR is that of exact arithmetic, on unseen samples. Models are timed in turns on one
thread, each layer's kernel by the runtime's profiler; times are medians over rounds. `--losses` times nothing: it
prints by how many dB the SQNR of each layer's weight falls where no pair of its int8 codes may saturate.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.zoo import arrays, sqnr_db, zoo
from onnxmpq.allocate import int8_everywhere
from onnxmpq.context import Context
from onnxmpq.cost.measure import Effort, Profiler
from onnxmpq.deployment import DeployCpu, scheme_for
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import BOUND_LOSS_DB, bound_loss_db, candidates, needing_unsigned_weights, observed_tensors
from onnxmpq.model import Model, Region, prepare
from onnxmpq.ranges import observe_ranges
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtimes import REFERENCE, SessionSettings, input_specs, open_session
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.cpu import cpu_features, cpu_model
from onnxmpq.schemes import INT8_WEIGHTS, SCHEMES, Scheme
from onnxmpq.target.load import load_target
from onnxmpq.weights import pair_bound
from onnxmpq.workbench import Workbench, prepare_bench

TIMED = ("resnet20_cifar10", "squeezenet1.1")
ALL = (*TIMED, "mobilenet_v1_0.25", "vit_tiny", "gpt_char", "yolov8n")
CALIBRATION, UNSEEN = 64, 60
INT8, U8U8, DIALECT = SCHEMES["int8"], SCHEMES["u8u8"], DIALECTS["onnxruntime"]
EFFORT = Effort(seconds=1.0, runs=20, rounds=5)
Weights = dict[tuple[str, str], QuantizedWeight]


def full_range(model: Model) -> Weights:
    """Weights of all layers that int8 and uint8 kernels take, rounded to nearest."""
    layers = [r for r in model.layers if DIALECT.supports(r, U8U8, model.opset)]
    return {(r.name, INT8_WEIGHTS.name): quantize_weight(model.weight(r), INT8_WEIGHTS) for r in layers}


def within_bound(model: Model, region: Region) -> QuantizedWeight:
    """The weight rounded to nearest under the bound by which no pair of codes saturates."""
    bounded = scheme_for(region, INT8, DeployCpu.ANY).weight or INT8_WEIGHTS
    return quantize_weight(model.weight(region), bounded, bound=pair_bound(region, region.params.weights[0], bounded))


@dataclass(frozen=True)
class Variant:
    """A plan, and the names of the layers whose int8 weights obey the bound."""

    plan: Mapping[str, Scheme]
    bounded: frozenset[str]


class Subject:
    """A model of the zoo, in int8 wherever that fuses."""

    def __init__(self, name: str) -> None:
        self.entry: Any = zoo().load(name)
        self.model = prepare(self.entry.model)
        specs = input_specs(open_session(self.model.proto))
        self.feeds: Feeds = load_feeds(arrays(self.entry, "calib", CALIBRATION), specs, limit=CALIBRATION)
        self.menu = candidates(self.model, load_target("cpu"), DIALECT)
        rules = REFERENCE.rules(self.model, {t: len(s) for t, s in float_shapes(self.model, self.feeds).items()})
        self.int8 = int8_everywhere(self.model, self.menu, rules)
        self.layers = [r for r in self.model.layers if r.name in self.int8]

    @cached_property
    def bench(self) -> Workbench:
        silent = Context()
        observation = observe_ranges(self.model, observed_tensors(self.model, self.menu), self.feeds, silent)
        bench = prepare_bench(self.model, self.menu, observation, DIALECT, silent)
        return replace(bench, weights={**bench.weights, **full_range(self.model)})

    def variants(self) -> dict[str, Variant]:
        needed = needing_unsigned_weights(self.model, self.menu, self.bench.weights, bounded=True)
        needing = [r.name for r in self.layers if U8U8 in needed[r.name]]
        every = frozenset(r.name for r in self.layers)
        some = frozenset(needing)
        return {
            "int8, full range": Variant(self.int8, frozenset()),
            "int8, within the bound": Variant(self.int8, every),
            f"u8u8 for {len(some)} of {len(every)} layers": Variant(
                self.int8 | dict.fromkeys(needing, U8U8), every - some
            ),
            "u8u8": Variant(self.int8 | dict.fromkeys(every, U8U8), frozenset()),
        }

    def build(self, variant: Variant) -> onnx.ModelProto:
        weights = dict(self.bench.weights)
        for region in self.layers:
            if region.name in variant.bounded:
                bounded = within_bound(self.model, region)
                weights[region.name, INT8_WEIGHTS.name] = replace(bounded, format=INT8_WEIGHTS)
        plan = {n: replace(s, weight=INT8_WEIGHTS) if s.weight else s for n, s in variant.plan.items()}
        return replace(self.bench, weights=weights).build(plan)

    def sqnr(self, proto: onnx.ModelProto) -> float:
        """dB of the unoptimised graph, whose integers are exact on every CPU."""
        samples = arrays(self.entry, "test", UNSEEN)
        plain = open_session(proto, SessionSettings(optimize=False))
        return sqnr_db(open_session(self.model.proto), plain, samples)


def losses_db(model: Model) -> np.ndarray:
    """By how many dB the SQNR of each layer's weight falls within the bound, rounded to nearest."""
    weights = full_range(model)
    bounded = {n: within_bound(model, model.region(n)) for n, _ in weights}
    weights |= {(n, w.format.name): w for n, w in bounded.items()}
    return np.array([bound_loss_db(model, model.region(layer), U8U8, weights) for layer in bounded])


def show_losses(names: list[str]) -> None:
    print(f"| model | layers | lose nothing | median dB | most | more than {BOUND_LOSS_DB:g} dB |")
    print("|---|---|---|---|---|---|")
    for name in names:
        found = losses_db(prepare(zoo().load(name).model))
        cells = [len(found), int((found == 0).sum()), f"{np.median(found):.2f}", f"{found.max():.2f}"]
        print(f"| {name} | {' | '.join(map(str, cells))} | {int((found > BOUND_LOSS_DB).sum())} |")


def show(name: str, rounds: int) -> None:
    subject = Subject(name)
    variants = subject.variants()
    protos = {title: subject.build(variant) for title, variant in variants.items()}
    profiler = Profiler(subject.model, subject.feeds.batch([0]), SessionSettings(), EFFORT)
    walls: dict[str, list[float]] = {title: [] for title in variants}
    kernels = {title: np.zeros((rounds, len(subject.layers))) for title in variants}
    for number in range(rounds):
        for title, variant in variants.items():
            profile = profiler.profile(variant.plan, protos[title])
            walls[title].append(profile.wall_s)
            kernels[title][number] = [profile.times.region_s[r.name] for r in subject.layers]
    print(f"\n### {name}: fp32 {profiler.reference_s * 1e3:.3f} ms\n\n| weights | SQNR dB | ms |\n|---|---|---|")
    for title in variants:
        print(f"| {title} | {subject.sqnr(protos[title]):.1f} | {np.median(walls[title]) * 1e3:.3f} |")
    print("\n| layer | weight | int8 ms | u8u8 ms | ratio |\n|---|---|---|---|---|")
    signed, unsigned = (np.median(kernels[title], axis=0) * 1e3 for title in ("int8, full range", "u8u8"))
    for region, one, other in zip(subject.layers, signed, unsigned, strict=True):
        shape = "x".join(map(str, region.params.weight_shape))
        print(f"| {region.name} | {shape} | {one:.4f} | {other:.4f} | {other / one:.2f} |")


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
        show(name, arguments.rounds)


if __name__ == "__main__":
    main()
