"""What this package writes breaks no rule of the dialect it was written in."""

from __future__ import annotations

import pytest

from onnxmpq.lint import lint
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.probe_graphs import PROBES
from tests.dialects.test_explicit import EVERY as EXPLICIT
from tests.dialects.test_explicit import Spelling
from tests.dialects.test_onnxruntime import EVERY as ORT
from tests.dialects.test_onnxruntime import Rewriting


@pytest.mark.parametrize("case", EXPLICIT, ids=lambda case: case.id)
def test_explicit_quantization(case: Spelling) -> None:
    """int4 weights under float8 activations are the one thing to say: they are unpacked before they are multiplied."""
    found = lint(case.rewrite(), case.dialect.name)
    unpacked = case.scheme.name == "w4a8-fp8" and case.dialect.name == "tensorrt"
    assert {(f.rule, f.severity) for f in found} <= ({("int4-weight-only", "warning")} if unpacked else set())


@pytest.mark.parametrize("case", ORT, ids=lambda case: case.id)
def test_onnxruntime(case: Rewriting) -> None:
    """Old versions fuse int8 blocks, and blocks of a Gemm, not at all."""
    found = lint(case.case.rewrite(case.assignment), "onnxruntime")
    unfused = any(probes.holds(n) is False for n in PROBES if " by blocks of " in n)
    blocked = any(s.fuses_to == ("MatMulNBits",) for s in case.assignment.values())
    assert {f.rule for f in found} <= ({"weight-only-layout"} if unfused and blocked else set())
