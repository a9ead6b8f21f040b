"""Divergence of whole models from the fp32 one, measured rather than predicted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.cache import content_hash
from onnxmpq.context import Context
from onnxmpq.execution import run_samples
from onnxmpq.feeds import Feeds
from onnxmpq.files import Archive, serialize
from onnxmpq.isolation import Kept, call, kept, patience_s
from onnxmpq.keys import feeds_hash, model_hash, programs
from onnxmpq.model import Model, WeightStore
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity.divergence import Code, Divergence

Losses = NDArray[np.float64]
"""Divergence per sample, float64 [samples]."""
Measure = Callable[[onnx.ModelProto], Losses]


@dataclass(frozen=True)
class Evaluator:
    """Divergence of whole models from the fp32 one on a few samples, run in the child of `onnxmpq.isolation`.

    store: the fp32 model. settings: of the sessions, but for its threads: so many samples run side by side, on one
    thread each. known: losses of a model that is measured by the second argument unless they are known.
    """

    store: WeightStore
    divergence: Divergence
    feeds: Feeds
    settings: SessionSettings
    known: Callable[[onnx.ModelProto, Measure], Losses]

    @classmethod
    def of(
        cls,
        model: Model,
        divergence: Divergence,
        feeds: Feeds,
        settings: SessionSettings,
        context: Context | None = None,
    ) -> Evaluator:
        """context: whose cache is asked before a model is run."""
        divergence = replace(divergence, scale=1.0)  # it is for the samples of the effects
        known = _measured if context is None else _asking(context, model, divergence, feeds, settings)
        return cls(model.store, divergence, feeds, settings, known)

    def losses(self, proto: onnx.ModelProto) -> Losses:
        """Divergence per sample, float64 [samples]. Raises ModelError where the model does not run, or CrashError."""
        return self.known(proto, self._losses)

    def loss(self, proto: onnx.ModelProto) -> float:
        return float(self.losses(proto).mean())

    def _losses(self, proto: onnx.ModelProto) -> Losses:
        reference, limit_s = self._reference
        arguments = proto, self.divergence, self._samples, self.settings
        codes = call(_codes, *arguments, doing="running a plan on samples", limit_s=limit_s)
        return self.divergence.per_sample(reference, codes - reference)

    @cached_property
    def _reference(self) -> tuple[Code, float | None]:
        """Codes of the fp32 outputs, and the time after which a model hangs; None for no limit."""
        start = time.perf_counter()
        arguments = self.store, self.divergence, self._samples, self.settings
        codes = call(_codes, *arguments, doing="running the original")
        return codes, patience_s(time.perf_counter() - start)

    @cached_property
    def _samples(self) -> Kept[Feeds]:
        return kept(self.feeds)


def _measured(proto: onnx.ModelProto, measure: Measure) -> Losses:
    return measure(proto)


def _asking(
    context: Context, model: Model, divergence: Divergence, feeds: Feeds, settings: SessionSettings
) -> Callable[[onnx.ModelProto, Measure], Losses]:
    """Losses from the cache, kept there as soon as they are measured. A model that does not run is tried each time."""
    if context.cache.folder is None:
        return _measured
    of_all = replace(settings, threads=0)  # samples side by side, whose losses do not depend on it
    common = content_hash("losses", programs(), model_hash(model), feeds_hash(feeds), divergence, of_all)

    def read(entry: Archive) -> Losses:
        losses = np.asarray(entry.array("losses", np.float64, len(feeds)), np.float64)
        if not np.isfinite(losses).all():
            raise ValueError("losses that are not finite")
        return losses

    def ask(proto: onnx.ModelProto, measure: Measure) -> Losses:
        key = content_hash(common, serialize(proto))
        found = context.cache.get(key, read)
        if found is None:
            found = measure(proto)
            context.cache.put(key, Archive({"losses": found}))
        return found

    return ask


def _codes(
    graph: onnx.ModelProto | WeightStore, divergence: Divergence, feeds: Feeds, settings: SessionSettings
) -> Code:
    """Codes of a model's outputs, or of the tensors behind them, on all samples."""
    runs = run_samples(graph, feeds, divergence.tensors, threads=settings.threads, settings=settings)
    return np.concatenate([divergence.encode(outputs, 1) for outputs in runs])
