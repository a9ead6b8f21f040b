"""A second look at a plan goes on until it is clear on which side of a limit the plan is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq.cost.measure import LOOKS, Effort, Profiler
from onnxmpq.isolation import Kept
from onnxmpq.runtimes import SessionSettings

ROUNDS = 6


@dataclass
class Watched(Profiler):
    """fp32 takes 2 s; of a plan each look measures these ratios to it."""

    ratios: list[float]
    effort: Effort = field(default_factory=Effort)
    settings: SessionSettings = field(default_factory=SessionSettings)
    reference_s: float = 2.0
    _per_reference: float = 1.0
    runtime: Any = None
    _inputs: Any = None
    looks: int = 0

    def _beside(self, plan: Kept[Any], parts: int) -> list[np.ndarray]:
        self.looks += 1
        return [np.ones(parts * ROUNDS), np.array(self.ratios * (parts * ROUNDS // len(self.ratios)))]


@dataclass(frozen=True)
class Case:
    id: str
    ratios: list[float]
    limit_s: float | None
    looks: int
    found_s: float


CASES = [
    Case("no limit", [0.4, 0.5, 0.6], None, 1, 1.0),
    Case("clearly within", [0.50, 0.51], 1.2, 1, 1.01),
    Case("clearly beyond", [0.50, 0.51], 0.9, 1, 1.01),
    Case("undecided", [0.4, 0.6], 1.0, len(LOOKS), 1.2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_until_it_is_clear(case: Case) -> None:
    profiler = Watched(case.ratios)
    assert profiler.again_s(onnx.ModelProto(), case.limit_s) == pytest.approx(case.found_s)
    assert profiler.looks == case.looks
