"""Inputs and results of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import onnx

from onnxmpq.allocate import LATENCY, SIZE, Limits, Problem, Solution
from onnxmpq.schemes import Scheme


@dataclass(frozen=True)
class Round:
    """One turn of the loop: what was predicted and what was measured. modelled: by quantity, of those that are not
    measured."""

    assignment: dict[str, Scheme]
    predicted_s: float
    measured_s: float
    size_bytes: int
    effect: float
    modelled: Mapping[str, float] = field(default_factory=dict)

    @property
    def taken(self) -> dict[str, float]:
        """Totals of the plan, by quantity."""
        return {LATENCY: self.measured_s, SIZE: float(self.size_bytes), **self.modelled}


@dataclass(frozen=True)
class Outcome:
    """The plan that was kept. original_s: fp32, measured beside it. solution: for bound and gap. met: False where a
    budget is missed and the best plan was asked for all the same."""

    assignment: dict[str, Scheme]
    proto: onnx.ModelProto
    solution: Solution
    problem: Problem
    rounds: tuple[Round, ...]
    kept: Round
    original_s: float
    size_limit_bytes: float | None
    measured: bool = True
    met: bool = True


class Refiner(Protocol):
    """Knows more of quality than the sum of single effects does."""

    def proposals(self, problem: Problem, assignment: Mapping[str, Scheme], limits: Limits) -> Sequence[Solution]:
        """Other plans within the limits that may lose less quality than this one, most promising first."""
        ...

    def prefers(self, challenger: onnx.ModelProto, incumbent: onnx.ModelProto) -> bool:
        """True if the challenger loses less, by more than chance."""
        ...


Keeps = Callable[[onnx.ModelProto], list[str]]
"""Quality floors: a rewritten model -> those it does not keep, in words."""
Trial = Callable[[onnx.ModelProto], None]
"""Runs a rewritten model as its users will. Raises ModelError where it cannot be run, CrashError where it crashes."""
