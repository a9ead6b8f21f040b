"""A zoo model with everything in int8 that fuses, for questions about activation ranges."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from benchmarks.zoo import arrays, zoo
from onnxmpq.deployment import DeployCpu
from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import activation_tensors, candidates
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import Observation, QuantParams, headroom, observe
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, run
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Evaluator, Perturbations, measure_effects
from onnxmpq.sensitivity.effects import make_divergence
from onnxmpq.target.load import load_target

INT8 = SCHEMES["int8"]
EFFECT_SAMPLES = 32


class Subject:
    """A model of the zoo, its test samples, and int8 weights rounded to nearest.

    layers_only: leave regions without weights in float32 (detectors and transformers lose everything otherwise).
    """

    def __init__(self, name: str, test: int, *, layers_only: bool) -> None:
        self.entry, self.test = zoo().load(name), test
        self.model, self.dialect = prepare(self.entry.model), DIALECTS["onnxruntime"]
        self.specs = input_specs(open_session(self.model.proto))
        menu = candidates(self.model, load_target("cpu"), self.dialect, cpu=DeployCpu.VNNI)
        layers = {r.name for r in self.model.layers}
        self.menu = menu.where(lambda name, s: s == INT8 and (name in layers or not layers_only))
        self.assignment = dict.fromkeys((name for name, schemes in self.menu.items() if schemes), INT8)
        self.tensors = activation_tensors(self.model, self.menu)
        assert INT8.weight is not None
        self.weights: dict[tuple[str, str], QuantizedWeight] = {
            (r.name, INT8.weight.name): quantize_weight(self.model.weight(r), INT8.weight)
            for r in self.model.layers
            if r.name in self.assignment
        }
        unseen = self.feeds("test", test)
        divergence, _ = make_divergence(self.model, unseen, 1, threads=1, kinds={})
        self.evaluator = Evaluator.of(self.model, divergence, unseen, SessionSettings(threads=2))

    def feeds(self, split: str, limit: int) -> Feeds:
        return load_feeds(arrays(self.entry, split, limit), self.specs, limit=limit)

    def observe(self, feeds: Feeds) -> Observation:
        found = observe(self.model, feeds, self.tensors, threads=2)
        return replace(found, headroom=headroom(self.model.structure, self.tensors)) if feeds.synthetic else found

    def ranges(
        self, observation: Observation, feeds: Feeds, names: Sequence[str]
    ) -> tuple[dict[str, QuantParams], float]:
        """Parameters of all tensors, and the seconds it took: of several estimators the best by its effect."""
        start = time.perf_counter()
        tries = {t: [observation.estimate(t, n) for n in names] for t in self.tensors}
        if len(names) == 1:
            return {t: only for t, (only,) in tries.items()}, time.perf_counter() - start
        few = feeds.take(np.linspace(0, len(feeds) - 1, min(len(feeds), EFFECT_SAMPLES)).round().astype(int).tolist())
        params = measure_effects(self.model, few, Perturbations({}, tries), threads=2).params
        return params, time.perf_counter() - start

    def build(
        self,
        params: Mapping[str, QuantParams],
        model: Model | None = None,
        weights: Mapping[str, QuantizedWeight] | None = None,
    ) -> onnx.ModelProto:
        """The int8 model, perhaps with corrected biases in `model`, or other weights by region."""
        stored = {(name, w.format.name): w for name, w in (weights or {}).items()}
        rewrite = Rewrite(model or self.model, self.assignment, params, {**self.weights, **stored}, self.model.roots)
        return self.dialect.rewrite(rewrite)

    def divergence(self, params: dict[str, QuantParams]) -> float:
        """From fp32, on test samples."""
        return self.evaluator.loss(self.build(params))

    def metric(self, proto: onnx.ModelProto) -> float:
        session = open_session(proto, SessionSettings(threads=2))
        return float(self.entry.score(lambda feeds: run(session, feeds), self.test, 1))
