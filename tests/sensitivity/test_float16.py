"""Rounding to 16 bits has an effect, measured, and plans heed it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.ranges import Observation
from onnxmpq.runtimes import SessionSettings
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Effects, Evaluator, effects_of_menu
from onnxmpq.sensitivity.float16 import half_perturbations
from onnxmpq.workbench import Workbench
from tests.graphs import feeds_for, graph, prepared, samples_for, token_model

PORTABLE = DIALECTS["portable"]


def menu_of(model: Model, *names: str) -> Menu:
    rows = {r.name: [SCHEMES[n] for n in names if PORTABLE.supports(r, SCHEMES[n], model.opset)] for r in model.regions}
    return Menu({name: (SCHEMES["fp32"], *row) for name, row in rows.items()})


def effects_of(model: Model, *names: str) -> Effects:
    bench, menu = Workbench(model, PORTABLE, {}, {}), menu_of(model, *names)
    return effects_of_menu(model, menu, bench, Observation({}, {}), feeds_for(model.proto, 16), None, Context())


def test_their_sum_is_about_what_the_whole_graph_loses() -> None:
    model = prepared(token_model())
    effects, menu = effects_of(model, "bf16"), menu_of(model, "bf16")
    plan = {name: SCHEMES["bf16"] for name, row in menu.items() if len(row) > 1}
    proto = Workbench(model, PORTABLE, {}, {}).build(plan)
    evaluator = Evaluator.of(model, effects.divergence, feeds_for(model.proto, 16), SessionSettings())
    predicted = sum(effects.of_scheme(name, scheme) for name, scheme in plan.items())
    assert predicted == pytest.approx(evaluator.loss(proto), rel=0.7)


def test_fewer_bits_of_mantissa_lose_more() -> None:
    model = prepared(token_model())
    effects = effects_of(model, "fp16", "bf16")
    for layer in model.layers:
        fp16, bf16 = (effects.of_scheme(layer.name, SCHEMES[n]) for n in ("fp16", "bf16"))
        assert 0 < 10 * fp16 < bf16


@pytest.mark.parametrize(
    ("scheme", "tensors", "weights"),
    [("fp16", {"x", "m"}, 1), ("w4a16", {"x", "m"}, 0), ("w8a8-fp8", {"m"}, 0), ("fp32", set(), 0)],
)
def test_what_is_rounded(scheme: str, tensors: set[str], weights: int) -> None:
    """What only moves values, on the way in or out, is not counted again."""
    proto = graph(
        "r = Reshape (x, s)  m = MatMul (r, w)  y = Transpose (m)",
        "float[N, 4, 16] x",
        "float[8, N] y",
        "float[64, 8] w, int64[2] s = {-1, 64}",
    )
    model = prepared(proto)
    tried = half_perturbations(model, menu_of(model, scheme), "float16")
    assert set(tried.activations) == tensors
    assert len(tried.weights) == weights
    for params in (p for row in tried.activations.values() for p in row):
        x = np.float32([1 + 2**-12, 1 + 2**-10])
        np.testing.assert_array_equal(params.simulate(x), np.float32([1, 1 + 2**-10]))


@pytest.mark.parametrize("quiet", ["w", "v"])
def test_plans_keep_float32_where_16_bits_hurt(quiet: str) -> None:
    """Half of the weights have to be in bfloat16: those whose result hardly counts."""
    proto = graph(
        "a = MatMul (x, w)  b = MatMul (x, v)  y = Add (a, b)",
        "float[N, 128] x",
        "float[N, 128] y",
        "float[128, 128] w, float[128, 128] v",
    )
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor) * np.float32(0.01 if tensor.name == quiet else 1.0)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    result = onnxmpq.convert(
        proto, size="80%", latency="100%", target="gaudi2", schemes=["bf16"], calibration=samples_for(proto, 16)
    )
    layers: Mapping[str, str] = {r.params.weight: r.name for r in prepared(proto).layers}
    assert [w for w, name in layers.items() if name in result.plan.schemes] == [quiet]
    assert result.plan.prediction["effect"] > 0
