"""What this package writes breaks no rule of the dialect it was written in."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.lint import lint
from onnxmpq.rounding.overflow import overflowing_channels
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.kernel_order import kernel_columns, sums_neighbours
from onnxmpq.runtimes.onnxruntime.probe_graphs import PROBES
from onnxmpq.schemes import Format
from tests.dialects.test_explicit import EVERY as EXPLICIT
from tests.dialects.test_explicit import Spelling
from tests.dialects.test_onnxruntime import EVERY as ORT
from tests.dialects.test_onnxruntime import Rewriting


@pytest.mark.parametrize("case", EXPLICIT, ids=lambda case: case.id)
def test_explicit_quantization(case: Spelling) -> None:
    """int4 weights under float8 activations have no documented kernel, and depthwise weights in 8 bits are padded."""
    found = lint(case.rewrite(), case.dialect.name)
    padded = {("narrow-groups", "warning")} if "depthwise" in case.id else set()
    unpacked = {("int4-weight-only", "warning")} if case.scheme.name == "w4a8-fp8" else set()
    assert {(f.rule, f.severity) for f in found} <= (padded | unpacked if case.dialect.name == "tensorrt" else set())


@pytest.mark.parametrize("case", ORT, ids=lambda case: case.id)
def test_onnxruntime(case: Rewriting) -> None:
    """Old versions fuse int8 blocks, and blocks of a Gemm, not at all. Overflow has a test of
    its own."""
    found = [f for f in lint(case.case.rewrite(case.assignment), "onnxruntime") if f.rule != "overflow"]
    unfused = any(probes.holds(n) is False for n in PROBES if " by blocks of " in n)
    blocked = any(s.weight_only for s in case.assignment.values())
    assert {f.rule for f in found} <= ({"weight-only-layout"} if unfused and blocked else set())


@pytest.mark.parametrize("case", ORT, ids=lambda case: case.id)
def test_overflow_is_seen_through_unfolding(case: Rewriting) -> None:
    """The rule says of a file what the bound says of the weights in it, however they are stored."""
    weights, expected = case.case.weights(case.assignment), {}
    for name, scheme in case.assignment.items():
        region = case.case.model.region(name)
        layer = region.layer
        integer = scheme.reads is Format.INT8 or scheme.dynamic
        if layer is None or scheme.weight is None or not integer or scheme.unsigned_weights:
            continue
        wrong = np.concatenate(
            [
                overflowing_channels(
                    weights[w.key, scheme.weight.name].int8_codes()[:, kernel_columns(region.op_type, w)],
                    2**scheme.activation_bits - 1,
                )
                for w in layer.weights
            ]
        )
        if wrong.any() and sums_neighbours(region.op_type, layer.weight_shape, layer.groups):
            expected[name] = f"{wrong.sum()} of {len(wrong)}"
    found = [f for f in lint(case.case.rewrite(case.assignment), "onnxruntime") if f.rule == "overflow"]
    assert {f.node: f.message.partition(" channels")[0] for f in found} == expected
