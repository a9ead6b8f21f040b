"""Superposed effects: exact where decisions add up, trusted only as far as held-back samples agree, never exploited."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from onnxmpq.allocate import Limits, Option, Problem, solve
from onnxmpq.allocate.refine import refine
from onnxmpq.allocate.superpose import LEAST_SHARE, Predictor, random_plan, sum_of
from onnxmpq.cost.table import CostTable
from onnxmpq.schemes import SCHEMES, Scheme
from onnxmpq.sensitivity.divergence import Divergence, OutputView
from onnxmpq.sensitivity.effects import Effects
from tests.graphs import graph, prepared

WIDTH = 12
LAYERS = 6
MODEL = prepared(
    graph(
        "a0 = MatMul (x, w) a1 = MatMul (a0, w) a2 = MatMul (a1, w) "
        "a3 = MatMul (a2, w) a4 = MatMul (a3, w) y = MatMul (a4, w)",
        "float[N, 16] x",
        "float[N, 16] y",
        "float[16, 16] w",
    )
)
VALUES = Divergence((OutputView("y", "values", 0, np.zeros(0, np.int64), np.ones(WIDTH), width=WIDTH, elements=WIDTH),))
W8, W4 = SCHEMES["w8"], SCHEMES["w4"]


def posed(changes: dict[tuple[str, str], np.ndarray]) -> tuple[Problem, Effects]:
    """The problem of storing six layers at 8 or 4 bits, w4 at half the bytes, with these effects."""
    samples = len(next(iter(changes.values())))
    effects = Effects(VALUES, np.zeros((samples, WIDTH), np.float32), changes, {}, {})
    options = {}
    for region in MODEL.layers:
        rows = [Option(SCHEMES["fp32"], {"size": 32.0})]
        for scheme in (W8, W4):
            assert scheme.weight is not None
            key = (region.name, scheme.weight.name)
            rows.append(Option(scheme, {"size": float(scheme.weight.bits)}, effects.of_weight(key)))
        options[region.name] = tuple(rows)
    return Problem(MODEL, options, {}, CostTable({r.name: {"fp32": 0.0} for r in MODEL.regions})), effects


def noise(samples: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((samples, WIDTH))).astype(np.float32)


def keys(scheme: Scheme) -> list[tuple[str, str]]:
    assert scheme.weight is not None
    return [(r.name, scheme.weight.name) for r in MODEL.layers]


def independent(samples: int) -> dict[tuple[str, str], np.ndarray]:
    """Effects that have nothing to do with each other; cross terms are chance."""
    return {k: noise(samples, i, 0.1 if "int8" in k[1] else 1.0) for i, k in enumerate(keys(W8) + keys(W4))}


def paired(samples: int) -> dict[tuple[str, str], np.ndarray]:
    """At 4 bits layers 0 and 1 undo each other, 2 and 3 do the same thing twice: real interactions."""
    found = independent(samples)
    four = keys(W4)
    found[four[0]] = 0.9 * found[four[0]]
    found[four[1]] = -1.2 * found[four[0]] + noise(samples, 50, 0.05)
    found[four[3]] = found[four[2]] + noise(samples, 51, 0.05)
    return found


def test_sum_and_prediction_by_hand() -> None:
    problem, effects = posed(paired(20))
    plan = dict.fromkeys([r.name for r in MODEL.layers][:3], W4)
    total = sum(effects.weights[k].astype(np.float64) for k in keys(W4)[:3])
    superposed = float((total**2).sum(axis=1).mean() / WIDTH)
    separable = sum(effects.of_weight(k) for k in keys(W4)[:3])
    for trust in (0.0, 0.5, 1.0):
        expected = 1.2 * (1 - trust) * separable + trust * superposed
        assert Predictor(problem, effects, 1.2, trust).divergence(plan) == pytest.approx(expected, rel=1e-4)


@dataclass(frozen=True)
class Trust:
    """Samples, whether interactions are real, and how far they should be believed."""

    id: str
    samples: int
    real: bool
    least: float
    most: float


TRUSTS = [Trust("real, many samples", 256, True, 0.8, 1.0), Trust("chance, few samples", 16, False, 0.0, 0.4)]


@pytest.mark.parametrize("case", TRUSTS, ids=lambda case: case.id)
def test_trust_tells_interactions_from_chance(case: Trust) -> None:
    problem, effects = posed((paired if case.real else independent)(case.samples))
    assert case.least <= Predictor.fitted(problem, effects).trust <= case.most


def test_few_samples_are_not_trusted_at_all() -> None:
    problem, effects = posed(paired(6))
    assert Predictor.fitted(problem, effects).trust == 0.0


def test_marginal_effects_count_what_others_do() -> None:
    """Beside layer 0 at 4 bits, layer 1 undoes most of the harm; beside layer 2, layer 3 adds three times its own."""
    problem, effects = posed(paired(128))
    names = [r.name for r in MODEL.layers]
    predictor = Predictor(problem, effects, 1.0, 1.0)
    beside = predictor.around({names[0]: W4, names[2]: W4})
    alone, now = ({n: p.option(n, W4).effect for n in names} for p in (problem, beside))
    assert now[names[1]] == pytest.approx(LEAST_SHARE * alone[names[1]]), "never less than a share of its own"
    assert now[names[3]] == pytest.approx(3 * alone[names[3]], rel=0.1)
    assert now[names[5]] == pytest.approx(alone[names[5]], rel=0.3)


def test_refinement_uses_interactions_and_keeps_limits() -> None:
    problem, effects = posed(paired(256))
    predictor = Predictor.fitted(problem, effects)
    limits = Limits(size=4 * 4.0 + 2 * 8.0 + 1.0)
    start = solve(problem, "effect", limits)
    assert start is not None
    found = refine(predictor, start, limits)
    losses = [predictor.divergence(s.assignment) for s in (start, *found)]
    assert found and losses == sorted(losses, reverse=True)
    assert all(problem.size_bytes(s.assignment) <= limits.upper["size"] for s in found)
    truth = replace(predictor, level=1.0, trust=1.0)
    assert truth.divergence(found[-1].assignment) < truth.divergence(start.assignment)


def test_no_refinement_without_trust() -> None:
    problem, effects = posed(independent(16))
    start = solve(problem, "effect", Limits(size=60.0))
    assert start is not None and refine(Predictor(problem, effects), start, Limits(size=60.0)) == []


def test_random_plans_differ_and_repeat() -> None:
    problem, _ = posed(independent(4))
    one, same, other = (random_plan(problem, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == same != other
    assert sum_of([], np.ones((2, 3), np.float32)).tolist() == [[0.0] * 3] * 2
