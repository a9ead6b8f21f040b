"""Divergence of whole models from the fp32 one, measured rather than predicted."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.execution import run_samples
from onnxmpq.feeds import Feeds
from onnxmpq.isolation import Kept, call, kept, patience_s
from onnxmpq.model import Model, WeightStore
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity.divergence import Code, Divergence


@dataclass(frozen=True)
class Evaluator:
    """Divergence of whole models from the fp32 one on a few samples, run in the child of `onnxmpq.isolation`.

    reference: codes of the fp32 outputs. settings: of the sessions, but for its threads: so many samples run side by
    side, on one thread each. limit_s: a model that takes longer hangs; None for no limit.
    """

    divergence: Divergence
    feeds: Feeds
    reference: Code
    settings: SessionSettings
    limit_s: float | None = None

    @classmethod
    def of(cls, model: Model, divergence: Divergence, feeds: Feeds, settings: SessionSettings) -> Evaluator:
        divergence = replace(divergence, scale=1.0)  # it is for the samples of the effects
        start = time.perf_counter()
        reference = call(_codes, model.store, divergence, feeds, settings, doing="running the original")
        return cls(divergence, feeds, reference, settings, patience_s(time.perf_counter() - start))

    @cached_property
    def _samples(self) -> Kept[Feeds]:
        return kept(self.feeds)

    def losses(self, proto: onnx.ModelProto) -> NDArray[np.float64]:
        """Divergence per sample, float64 [samples]. Raises ModelError where the model does not run, or CrashError."""
        arguments = proto, self.divergence, self._samples, self.settings
        codes = call(_codes, *arguments, doing="running a plan on samples", limit_s=self.limit_s)
        return self.divergence.per_sample(self.reference, codes - self.reference)

    def loss(self, proto: onnx.ModelProto) -> float:
        return float(self.losses(proto).mean())


def _codes(
    graph: onnx.ModelProto | WeightStore, divergence: Divergence, feeds: Feeds, settings: SessionSettings
) -> Code:
    """Codes of a model's outputs, or of the tensors behind them, on all samples."""
    runs = run_samples(graph, feeds, divergence.tensors, threads=settings.threads, settings=settings)
    return np.concatenate([divergence.encode(outputs, 1) for outputs in runs])
