"""Effects are brought to the level of samples that took no part, and only to that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.allocate import Problem, at_unseen_level, modest_plans, pose
from onnxmpq.context import Context
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.ranges import Observation
from onnxmpq.rounding import quantize_weight
from onnxmpq.samples import Samples
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Effects, effects_of_menu
from onnxmpq.workbench import Workbench
from tests.graphs import feeds_for, graph, prepared

NAMES = ("fp32", "w8", "w4")
MODEL = prepared(graph("h = MatMul (x, w) y = MatMul (h, w)", "float[N, 32] x", "float[N, 32] y", "float[32, 32] w"))


def bench_of(model: Model) -> Workbench:
    formats = [SCHEMES[n].weight for n in NAMES[1:]]
    weights = {(r.name, f.name): quantize_weight(model.weight(r), f) for r in model.layers for f in formats if f}
    return Workbench(model, DIALECTS["onnxruntime"], {}, weights)


def posed(feeds: Feeds) -> tuple[Problem, Effects, Workbench]:
    menu = Menu({r.name: tuple(SCHEMES[n] for n in NAMES) for r in MODEL.regions})
    bench = bench_of(MODEL)
    effects = effects_of_menu(MODEL, menu, bench, Observation({}, {}), feeds, {"y": "values"}, Context())
    table = CostTable({r.name: {"fp32": 0.0} for r in MODEL.regions})
    return pose(MODEL, menu, table, effects, bench.weights), effects, bench


def mixed(feeds: Feeds, times: float) -> Samples:
    """Samples of which those that decide are so many times as large."""
    decides = np.arange(len(feeds)) % 4 == 3
    x = np.where(decides[:, None], np.float32(times), np.float32(1)) * feeds.arrays["x"]
    return Samples(replace(feeds, arrays={"x": x.astype(np.float32)}), feeds, True)


@pytest.mark.parametrize("times", [0.5, 3.0])
def test_larger_samples_diverge_by_the_square(times: float) -> None:
    feeds = feeds_for(MODEL.proto, 64)
    problem, effects, bench = posed(mixed(feeds, 1.0).rounding)
    alike, others = (at_unseen_level(problem, effects, bench, mixed(feeds, t), Context()) for t in (1.0, times))
    for key in effects.weights:
        assert others.of_weight(key) == pytest.approx(times**2 * alike.of_weight(key), rel=1e-3)
        assert alike.of_weight(key) == pytest.approx(effects.of_weight(key), rel=0.3)


def test_few_samples_say_nothing() -> None:
    problem, effects, bench = posed(feeds_for(MODEL.proto, 16))
    data = mixed(feeds_for(MODEL.proto, 31), 3.0)
    assert len(data.deciding) == 7
    assert at_unseen_level(problem, effects, bench, data, Context()) is effects


def test_plans_that_change_nothing_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, effects, bench = posed(feeds_for(MODEL.proto, 16))
    monkeypatch.setattr("onnxmpq.sensitivity.Evaluator.loss", lambda *_: 0.0)
    assert at_unseen_level(problem, effects, bench, mixed(feeds_for(MODEL.proto, 64), 1.0), Context()) is effects


def test_plans_are_of_little_effect() -> None:
    problem, _, _ = posed(feeds_for(MODEL.proto, 16))
    effects = [problem.effect(plan) for plan in modest_plans(problem, 0)]
    w4 = {r.name: SCHEMES["w4"] for r in MODEL.regions}
    assert effects == sorted(effects) and 0 < effects[0] <= effects[-1] < problem.effect(w4)
