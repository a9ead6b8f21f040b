"""Regions whose graph or kernel does not compute what effects predict are found, all of them, and no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.closed_loop.suspects import Group, culprits, judged, predicted_divergence, suspects, without
from onnxmpq.dialects import Dialect, Rewrite
from onnxmpq.errors import ModelError
from onnxmpq.runtimes import SessionSettings
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import Effects, Evaluator, Perturbations, measure_effects
from onnxmpq.workbench import Workbench
from tests.dialects.cases import NETWORKS, ORT

CASE = NETWORKS["residual_cnn"]
PLAN = CASE.everywhere("int8")
LAYERS = [r.name for r in CASE.model.layers]


# ---- group testing ------------------------------------------------------------------------------


@dataclass
class Machine:
    """Divergences of regions add up. excess: of the culprits; shaken: share by which each group misses the sum."""

    predicted_each: float
    excess: Mapping[str, float]
    shaken: float = 0.0
    asked: list[Group] = field(default_factory=list)

    def predicted(self, group: Group) -> float:
        return self.predicted_each * len(group)

    def measured(self, group: Group) -> float:
        self.asked.append(group)
        wrong = self.shaken * math.sin(len(self.asked))
        return self.predicted(group) * (1.0 + wrong) + sum(self.excess.get(n, 0.0) for n in group)

    def found(self, names: Group) -> dict[str, float]:
        return culprits(names, self.predicted, self.measured, 0.25 * self.predicted(names))


@given(
    st.integers(1, 120),
    st.floats(1e-5, 1.0),
    st.sets(st.integers(0, 119), max_size=6),
    st.floats(0.0, 0.1),
)
def test_all_culprits_are_found_and_no_others(count: int, each: float, guilty: set[int], shaken: float) -> None:
    names = tuple(f"r{i}" for i in range(count))
    excess = {f"r{i}": max(5 * each, 0.5 * each * count) for i in guilty if i < count}
    assert Machine(each, excess, shaken).found(names).keys() == excess.keys()


@pytest.mark.parametrize(("guilty", "most"), [((), 1), ((70,), 15), ((3, 70), 27), (range(100), 115)])
def test_few_sessions_are_needed(guilty: tuple[int, ...], most: int) -> None:
    machine = Machine(1e-3, {f"r{i}": 0.05 for i in guilty})
    assert len(machine.found(tuple(f"r{i}" for i in range(100)))) == len(guilty)
    assert len(machine.asked) <= most


def test_what_cannot_run_at_all_is_a_culprit() -> None:
    machine = Machine(1e-3, {"r7": math.inf})
    assert machine.found(tuple(f"r{i}" for i in range(20))) == {"r7": math.inf}


# ---- real graphs --------------------------------------------------------------------------------


@cache
def effects() -> Effects:
    weights = {key: (weight,) for key, weight in CASE.weights(PLAN).items()}
    roots = CASE.model.roots
    tensors = dict.fromkeys(t for r in CASE.model.regions for t in (*r.inputs, *r.outputs) if t not in roots)
    tries = Perturbations(weights, {t: [CASE.activations[t]] for t in tensors})
    return measure_effects(CASE.model, CASE.feeds, tries)


def bench(dialect: Dialect = ORT) -> Workbench:
    return Workbench(CASE.model, dialect, CASE.activations, CASE.weights(PLAN))


def damaging(*tensors: str, factor: float = 3.0) -> Dialect:
    """A dialect that writes other scales than it was given."""

    def rewrite(job: Rewrite) -> onnx.ModelProto:
        proto = ORT.rewrite(job)
        for tensor in proto.graph.initializer:
            if tensor.name in tensors:
                values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
        return proto

    return replace(ORT, rewrite=rewrite)


def unfused_losses() -> Callable[[onnx.ModelProto], float]:
    """Without optimisation, so that no kernel of the machine has a say."""
    return Evaluator.of(CASE.model, effects().pooled, CASE.feeds, SessionSettings(optimize=False)).loss


def test_a_sound_plan_has_no_suspects() -> None:
    assert judged(bench(), PLAN, effects(), unfused_losses(), unfused_losses()) == []


@pytest.mark.parametrize("layers", [[0], [1], [3], [0, 2], [1, 2, 3]], ids=str)
def test_damaged_scales_are_found(layers: list[int]) -> None:
    """In the written graph, so that no optimisation makes a difference."""
    damaged = bench(damaging(*(f"w{i}/scale" for i in layers)))
    found = judged(damaged, PLAN, effects(), unfused_losses(), unfused_losses())
    assert [s.region for s in found] == [LAYERS[i] for i in layers]
    assert all(s.measured > 4 * s.predicted and not s.in_kernel for s in found)


def test_the_default_session_of_a_damaged_graph() -> None:
    damaged = bench(damaging("w1/scale", factor=20.0))
    found = suspects(damaged, PLAN, effects(), CASE.feeds.take([0, 1, 2, 3]), SessionSettings())
    assert LAYERS[1] in [s.region for s in found]


def test_effects_that_do_not_add_up_accuse_no_region() -> None:
    """Each region as predicted, all together ten times that."""
    names = tuple(f"r{i}" for i in range(20))

    def measured(group: Group) -> float:
        return 1e-3 * len(group) * (10.0 if len(group) == len(names) else 1.0)

    assert culprits(names, lambda group: 1e-3 * len(group), measured, 5e-3) == {}


def test_only_where_asked() -> None:
    damaged = bench(damaging("w1/scale", "w2/scale"))
    found = judged(damaged, PLAN, effects(), unfused_losses(), unfused_losses(), [LAYERS[2], LAYERS[3]])
    assert [s.region for s in found] == [LAYERS[2]]


def test_a_kernel_that_saturates() -> None:
    """The session as asked for computes another divergence than the unfused one of the same graph."""
    loss = unfused_losses()

    def saturating(proto: onnx.ModelProto) -> float:
        return loss(proto) + (0.5 if any(t.name == "w2/scale" for t in proto.graph.initializer) else 0.0)

    [found] = judged(bench(), PLAN, effects(), saturating, loss)
    assert found.region == LAYERS[2] and found.in_kernel
    assert without(PLAN, [found]).keys() == PLAN.keys() - {LAYERS[2]}


@pytest.mark.parametrize("result", [math.nan, ModelError("no kernel")], ids=["nan", "refused"])
def test_a_graph_that_does_not_run(result: float | ModelError) -> None:
    loss = unfused_losses()

    def broken(proto: onnx.ModelProto) -> float:
        if not any(t.name == "w1/scale" for t in proto.graph.initializer):
            return loss(proto)
        if isinstance(result, ModelError):
            raise result
        return result

    [found] = judged(bench(), PLAN, effects(), broken, loss)
    assert found.region == LAYERS[1] and math.isinf(found.measured) and found.in_kernel


def test_prediction_of_a_plan_is_the_sum_of_its_decisions() -> None:
    """Every activation that some region quantizes counts once."""
    model, every = CASE.model, effects()
    [first, second, *_] = LAYERS
    both: dict[str, Scheme] = {n: PLAN[n] for n in (first, second)}
    alone = [predicted_divergence(model, {n: PLAN[n]}, every) for n in both]
    assert predicted_divergence(model, {}, every) == 0.0
    assert max(alone) < predicted_divergence(model, both, every) <= sum(alone)
    weights = sum(every.of_scheme(n, s) for n, s in both.items())
    assert predicted_divergence(model, both, every) > weights
