"""onnxruntime as a runtime: its answers to the protocol, each from a file of this folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from onnxmpq.model import Model, Region, Step
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime import rules as own_rules
from onnxmpq.runtimes.onnxruntime.attribute import attribute
from onnxmpq.runtimes.onnxruntime.fusions import fusions
from onnxmpq.runtimes.onnxruntime.kernels import Trace, trace
from onnxmpq.runtimes.onnxruntime.probe_graphs import ATTENTION, DYNAMIC_LSTM, GROUPED_ATTENTION, ROTARY
from onnxmpq.runtimes.onnxruntime.session import CPU, Call, Session, SessionSettings, open_session, run
from onnxmpq.runtimes.rules import Rules
from onnxmpq.runtimes.types import Inputs, KernelTimes
from onnxmpq.schemes import Scheme

_STEPS: Mapping[Step, str] = {
    Step.FUSE_ATTENTION: ATTENTION,
    Step.FUSE_GROUPS: GROUPED_ATTENTION,
    Step.FUSE_ROTARY: ROTARY,
}
"""Optional steps of preparing, with the probe that must hold."""


@dataclass(frozen=True)
class OnnxRuntime:
    """See `onnxmpq.runtimes.Runtime`."""

    name: str = "onnxruntime"
    unfolds_weights: bool = True
    merges_layers: bool = False  # three MatMuls of one tensor are three kernels in the optimized graph (1.32)

    def open(self, model: Any, settings: SessionSettings) -> Session:
        return open_session(model, settings)

    def prepared(self, session: Session, feeds: Inputs) -> Callable[[], object]:
        return Call.of(session, feeds)

    def run(self, session: Session, feeds: Inputs) -> list[Any]:
        return run(session, feeds)

    def trace(
        self, proto: onnx.ModelProto, feeds: Inputs, settings: SessionSettings, runs: int, seconds: float
    ) -> Trace:
        return trace(proto, feeds, settings, runs, seconds)

    def kernels(self, model: Model, trace: Trace) -> KernelTimes:
        found = attribute(model, trace.optimized)
        region_s: dict[str, float] = defaultdict(float)
        tensor_s: dict[str, float] = defaultdict(float)
        region_kernels: dict[str, int] = defaultdict(int)
        tensor_kernels: dict[str, int] = defaultdict(int)
        other_s, other = 0.0, 0
        for name, seconds in trace.durations_s.items():
            if name in found.regions:
                region_s[found.regions[name]] += seconds
                region_kernels[found.regions[name]] += 1
            elif name in found.tensors:
                tensor_s[found.tensors[name]] += seconds
                tensor_kernels[found.tensors[name]] += 1
            else:
                other_s += seconds
                other += 1
        return KernelTimes(
            dict(region_s), dict(tensor_s), other_s, dict(region_kernels), dict(tensor_kernels), other, found.operators
        )

    def rules(self, model: Model, ranks: Mapping[str, int]) -> Rules:
        return own_rules.rules(model, ranks)

    def fuses(self, region: Region, scheme: Scheme, operators: frozenset[str]) -> bool:
        wanted = fusions(region, scheme)
        return not wanted or not operators.isdisjoint(wanted)

    def takes(self, step: Step, provider: str | None) -> bool:
        return provider in (None, CPU) and step in _STEPS and bool(probes.holds(_STEPS[step]))

    def miscomputes(self, scheme: Scheme) -> bool:
        return scheme.dynamic and any(probes.holds(name) is False for name in DYNAMIC_LSTM)

    def saturating_cpu(self, provider: str | None) -> bool:
        return provider in (None, CPU)
