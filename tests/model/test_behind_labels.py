"""Models that hand out integers alone: effects are those on the float tensors that the integers are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.model import float_sources, prepare
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import SessionSettings
from onnxmpq.schemes import scheme_named
from onnxmpq.sensitivity import Evaluator, Perturbations, measure_effects
from tests.graphs import feeds_for, graph

LAYERS = "h = MatMul (x, w)  r = Relu (h)  s = MatMul (r, v)  "
WEIGHTS = "float[12, 12] w, float[12, 6] v, float zero = {0}, int64[1] two = {2}, int64 at = {1}"


@dataclass(frozen=True)
class Case:
    """The nodes behind two layers, and the tensors that the outputs are made of."""

    id: str
    body: str
    outputs: str
    sources: list[str]


CASES = [
    Case("labels", "y = ArgMax <axis = 1> (s)", "int64[a, b] y", ["s"]),
    Case("indices of the largest", "t, y = TopK (s, two)", "int64[a, b] y", ["s"]),
    Case("positions", "k = Greater (s, zero)  y = NonZero (k)", "int64[a, b] y", ["s"]),
    Case("rounded", "t = Tanh (s)  y = Cast <to = 7> (t)", "int64[a, b] y", ["t"]),
    Case("picked", "i = ArgMax <axis = 1> (s)  y = Gather (i, at)", "int64[b] y", ["s"]),
    Case("two outputs", "y = ArgMax <axis = 1> (s)  z = Greater (h, zero)", "int64[a, b] y, bool[a, b] z", ["s", "h"]),
    Case("a shape beside them", "y = ArgMax <axis = 1> (s)  z = Shape (h)", "int64[a, b] y, int64[c] z", ["s"]),
    Case("a shape alone", "y = Shape (s)", "int64[a] y", []),
    Case("scores beside them", "y = ArgMax <axis = 1> (s)  z = Tanh (s)", "int64[a, b] y, float[a, b] z", []),
    Case(
        "in a branch",
        """m = ReduceMean <keepdims = 0> (h)  f = Greater (m, zero)
           y = If (f) <then_branch = t () => (int64[a, b] p) { p = ArgMax <axis = 1> (s) },
                       else_branch = e () => (int64[a, b] q) { q = ArgMin <axis = 1> (s) }>""",
        "int64[a, b] y",
        ["s", "m"],
    ),
]


def model_of(case: Case) -> onnx.ModelProto:
    return graph(LAYERS + case.body, "float[N, 12] x", case.outputs, WEIGHTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_nearest_floats(case: Case) -> None:
    assert float_sources(prepare(model_of(case)).structure) == case.sources


def test_effects_are_those_on_the_scores() -> None:
    labels, scores = prepare(model_of(CASES[0])), prepare(graph(LAYERS, "float[N, 12] x", "float[N, 6] s", WEIGHTS))
    weight = scheme_named("w4").weight
    assert weight is not None
    tries = Perturbations(
        {(r.name, weight.name): [quantize_weight(labels.weight(r), weight)] for r in labels.layers}, {}
    )
    found, expected = (measure_effects(m, feeds_for(m.proto, 6), tries) for m in (labels, scores))
    assert found.divergence.kinds == {"y": "values"}, "that of the output"
    for key, change in expected.weights.items():
        assert change.any() and not found.idle
        np.testing.assert_allclose(found.weights[key], change, atol=1e-5)
        assert found.of_weight(key) == pytest.approx(expected.of_weight(key), rel=1e-4)


def test_whole_models_are_judged_by_the_scores_too() -> None:
    model = prepare(model_of(CASES[0]))
    feeds = feeds_for(model.proto, 6)
    effects = measure_effects(model, feeds, Perturbations({}, {}))
    evaluator = Evaluator.of(model, effects.divergence, feeds, SessionSettings())
    assert evaluator.loss(model.proto) == pytest.approx(0.0, abs=1e-9)
    other = model.with_tensors({"v": np.asarray(model.store.array("v")) * np.float32(1.01)})
    assert 0 < evaluator.loss(other.proto) < 0.01
