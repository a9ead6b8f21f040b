"""Local functions: their default attributes hold, and a model whose functions are not inlined is converted as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxmpq
from onnxmpq.model import Step, prepare, steps
from tests.graphs import feeds_for, fill, outputs_of
from tests.outcomes import QUICK

TEXT = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[N, 32] x) => (float[N, 24] y) <float[32, 32] w, float[32, 24] v>
{ a = MatMul (x, w)  b = local.outer (a)  c = local.slope <by = 0.7> (b)  y = MatMul (c, v) }
<domain: "local", opset_import: ["" : 21]> slope <by: float = 0.4> (p) => (q) { q = LeakyRelu <alpha: float = @by> (p) }
<domain: "local", opset_import: ["" : 21, "local" : 1]> outer (p) => (r) { q = local.slope (p)  r = local.slope (q) }
"""


def functions() -> onnx.ModelProto:
    return fill(onnx.parser.parse_model(TEXT))


def test_default_attributes_are_those_of_the_source() -> None:
    proto = functions()
    model = prepare(proto)
    assert "local functions were inlined" in model.notes and not model.structure.functions
    slopes = [n.attribute[0].f for n in model.structure.graph.node if n.op_type == "LeakyRelu"]
    assert slopes == pytest.approx([0.4, 0.4, 0.7])
    inputs = feeds_for(proto).batch([0])
    np.testing.assert_allclose(outputs_of(model.proto, inputs)["y"], outputs_of(proto, inputs)["y"], rtol=1e-5)


def test_functions_that_cannot_be_inlined_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(steps, "_inline", broken)
    proto = functions()
    arrays = feeds_for(proto, 8).arrays
    options: dict[str, Any] = {"effort": QUICK, "cache": False, "guard": False}
    result = onnxmpq.convert(proto, calibration=arrays, size="smallest", schemes=["w8"], **options)
    assert f"left out: {Step.INLINE} (no)" in result.report.notes
    assert len(result.model.functions) == 2 and "w8" in {r.scheme for r in result.plan.layers}
    before, after = (outputs_of(p, arrays)["y"] for p in (proto, result.model))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()
