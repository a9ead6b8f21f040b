"""Ablation of weight rounding: every weight at 4 bits (w4: dual blocks of 16, activations float), one step at a time.

    ONNXMPQ_ZOO=... python -m benchmarks.rounding_ablation [MODEL ...] [--samples 64] [--test 400] [--scheme w4]

Prints a markdown table: divergence from fp32 and the model's metric on test samples that calibration never saw. As in
a conversion, moments come from three quarters of the calibration samples and the rest decides on the last two steps.
Steps named "the same" are the one before them on a model with rescaled channels; what follows builds on the plain one.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from benchmarks.zoo import arrays, zoo
from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import ESTIMATORS, QuantParams, observe
from onnxmpq.rescale import CANDIDATES, candidate_factors, find_channels, measure_extent, rescaled
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, run
from onnxmpq.schemes import SCHEMES, Format, Scheme
from onnxmpq.sensitivity import Evaluator
from onnxmpq.sensitivity.effects import make_divergence
from onnxmpq.weights import compensate, round_weights, with_biases, without

DEFAULT_MODELS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "vit_tiny", "gpt_char")
Weights = dict[str, QuantizedWeight]
LAST_FIRST_STEP = "+ descent, exact depthwise"


@dataclass(frozen=True)
class Row:
    """One step of the ablation. seconds: process time of the step; kept: False where held-out samples rejected it."""

    step: str
    divergence: float
    metric: float
    seconds: float
    kept: bool = True


class Subject:
    """A model of the zoo with all its layers in one scheme."""

    def __init__(self, name: str, scheme: Scheme, samples: int, test: int) -> None:
        self.entry, self.scheme, self.test = zoo().load(name), scheme, test
        self.model = prepare(self.entry.model)
        self.dialect = DIALECTS["onnxruntime"]
        self.calibration = calibration = self._feeds("calib", samples)
        count = len(calibration)
        self.rounding = calibration.take([i for i in range(count) if i % 4 != 3])
        deciding, unseen = calibration.take(range(3, count, 4)), self._feeds("test", test)
        divergence, _ = make_divergence(self.model, deciding, 1, threads=1, kinds={})
        settings = SessionSettings()
        self.deciding = Evaluator.of(self.model, divergence, deciding, settings)
        self.unseen = Evaluator.of(self.model, divergence, unseen, settings)
        self.layers = [
            r
            for r in self.model.layers
            if r.op_type not in ("Gather", "ConvTranspose") and self.dialect.supports(r, scheme, self.model.opset)
        ]
        self.activations = self._ranges(calibration) if scheme.reads is Format.INT8 else {}

    def _feeds(self, split: str, limit: int) -> Feeds:
        specs = input_specs(open_session(self.model.proto))
        return load_feeds(arrays(self.entry, split, limit), specs, limit=limit)

    def _ranges(self, feeds: Feeds) -> dict[str, QuantParams]:
        roots = self.model.roots
        tensors = dict.fromkeys(roots.get(t, t) for r in self.layers for t in (*r.inputs, *r.outputs))
        histograms = observe(self.model, feeds, list(tensors)).histograms
        return {t: ESTIMATORS["mse"](h) for t, h in histograms.items()}

    def rescaled(self, candidate: str) -> Subject | None:
        """The same with channels rescaled; None where the model has none that can be."""
        channels = find_channels(self.model.structure)
        if not channels.count:
            return None
        other = copy.copy(self)
        extent = measure_extent(self.model, channels, self.rounding)
        other.model = rescaled(self.model, channels, candidate_factors(candidate, extent, channels))
        other.activations = other._ranges(self.calibration) if self.activations else {}
        return other

    def build(self, model: Model, weights: Mapping[str, QuantizedWeight]) -> onnx.ModelProto:
        stored = {(name, weight.format.name): weight for name, weight in weights.items()}
        assignment = dict.fromkeys(weights, self.scheme)
        return self.dialect.rewrite(Rewrite(model, assignment, self.activations, stored, model.roots))

    def score(self, proto: onnx.ModelProto) -> tuple[float, float]:
        """(divergence, metric) on test samples."""
        session = open_session(proto)
        return self.unseen.loss(proto), self.entry.score(lambda feeds: run(session, feeds), self.test, 1)


def ablation(subject: Subject) -> list[Row]:
    """Rows from round-to-nearest with plain maximum scales to everything there is."""
    weights: Weights = {}
    rows = []
    for step, make in first_steps(subject).items():
        start = time.process_time()
        weights = make()
        seconds = time.process_time() - start
        rows.append(Row(step, *subject.score(subject.build(subject.model, weights)), seconds))
    rows += rescaled_rows(subject)
    for step, off in (("+ cross, in sequence", ["bias-correction"]), ("+ bias correction", [])):
        start = time.process_time()
        found = compensate(
            subject.model, weights, subject.build, subject.rounding, subject.deciding.loss, without(off), threads=1
        )
        seconds = time.process_time() - start
        changed = with_biases(subject.model, found.biases)
        kept = "cross" in found.kept if off else "bias-correction" in found.kept
        rows.append(Row(step, *subject.score(subject.build(changed, found.weights)), seconds, kept))
    return rows


def rescaled_rows(subject: Subject) -> list[Row]:
    """GPTQ and descent after each way of rescaling channels, beside the steps that the others build on."""
    rows = []
    for candidate in CANDIDATES:
        start = time.process_time()
        other = subject.rescaled(candidate)
        if other is not None:
            weights = first_steps(other)[LAST_FIRST_STEP]()
            seconds = time.process_time() - start
            scores = other.score(other.build(other.model, weights))
            rows.append(Row(f"the same, {candidate}", *scores, seconds))
    return rows


def first_steps(subject: Subject) -> dict[str, Callable[[], Weights]]:
    """Each layer for itself."""
    weight_format = subject.scheme.weight
    assert weight_format is not None
    model, formats = subject.model, {(r.name, weight_format.name): weight_format for r in subject.layers}

    def largest() -> Weights:
        return {r.name: _largest_scales(model.weight(r), weight_format) for r in subject.layers}

    def nearest() -> Weights:
        return {r.name: quantize_weight(model.weight(r), weight_format) for r in subject.layers}

    def rounded(*off: str) -> Weights:
        found = round_weights(model, formats, subject.rounding, without(off), threads=1)
        return {name: weight for (name, _), weight in found.items()}

    return {
        "nearest, largest weight": largest,
        "nearest, MSE scales": nearest,
        "GPTQ": lambda: rounded("descent"),
        LAST_FIRST_STEP: rounded,
    }


def _largest_scales(w: Any, weight_format: Any) -> QuantizedWeight:
    """Round to nearest with one multiplier everywhere and the scale that clips nothing."""
    grid = weight_format.fit(w)
    scales = abs(w).max(axis=1) / weight_format.high
    if grid.multipliers is not None:
        return type(grid)(weight_format, scales.astype("f4"), grid.multipliers * 0 + 1, grid.block).nearest(w)
    return type(grid)(weight_format, scales.astype("f4"), None, grid.block).nearest(w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=DEFAULT_MODELS)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--scheme", default="w4", choices=[s for s in ("w4", "w4a8", "w8", "int8") if s in SCHEMES])
    options = parser.parse_args()
    print("| model | step | divergence | metric | CPU s |\n|---|---|---|---|---|", flush=True)
    for name in options.models:
        subject = Subject(name, SCHEMES[options.scheme], options.samples, options.test)
        reference = open_session(subject.model.proto)
        metric = subject.entry.score(lambda feeds, session=reference: run(session, feeds), options.test, 1)
        print(f"| {name} | fp32 | 0 | {metric:.4f} | |", flush=True)
        for row in ablation(subject):
            note = "" if row.kept else " (rejected)"
            print(f"| | {row.step}{note} | {row.divergence:.4f} | {row.metric:.4f} | {row.seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
