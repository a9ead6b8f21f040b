"""An order of channels is kept where weights within the bound on pairs lose less by it, and plans hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxmpq
from onnxmpq.cache import Cache
from onnxmpq.context import Context
from onnxmpq.cost.measure import Effort
from onnxmpq.deployment import DeployCpu
from onnxmpq.dialects import DIALECTS
from onnxmpq.files import serialize
from onnxmpq.menu import Menu, candidates
from onnxmpq.model import Model, Region, prepare
from onnxmpq.rescale import (
    Rescaling,
    best_order,
    find_channels,
    find_exchangeable,
    in_best_order,
    reordered,
    rescaled,
    restore_factors,
    restore_order,
)
from onnxmpq.rescale.order import _matched
from onnxmpq.result import Result
from onnxmpq.rounding import ALONE, quantize_weight
from onnxmpq.schemes import INT8_WEIGHTS
from onnxmpq.target import load_target
from onnxmpq.weights import Techniques, pack_array, pair_bound, without
from tests.graphs import graph, residual_cnn, samples_for
from tests.rescale.test_channels import CONV, IMAGE
from tests.rescale.test_exchange import CASES

BOUNDED = INT8_WEIGHTS.without_saturation
OTHERS = ("gptq", "bias-correction", "equalisation", "smoothquant")
QUICK = Effort(seconds=0.02, runs=2, rounds=2)


def heavy(proto: onnx.ModelProto, seed: int) -> Model:
    """The model with random weights of which some are much larger than others."""
    model, generator = prepare(proto), np.random.default_rng(seed)
    places = {place.tensor: place.shape for _, place in model.weights.values()}
    return model.with_tensors({t: generator.standard_t(2, shape).astype(np.float32) for t, shape in places.items()})


def bounded_layers(model: Model) -> dict[str, Region]:
    """Layers that kernels add neighbours of, and that read channels which can change places."""
    reads = find_exchangeable(model.structure).reads
    menu = offered(model, DeployCpu.ANY)
    return {r.name: r for r in model.layers if r.name in reads and any(s.weight == BOUNDED for s in menu[r.name])}


def offered(model: Model, cpu: DeployCpu) -> Menu:
    return candidates(model, load_target("cpu"), DIALECTS["onnxruntime"], requested=["int8"], cpu=cpu)


def error(model: Model, region: Region) -> float:
    """Of the layer's weight rounded to nearest within the bound, relative to the weight. Checks the bound."""
    w, bound = model.weight(region), pair_bound(region, region.params.weights[0], BOUNDED)
    rounded = quantize_weight(w, BOUNDED, bound=bound)
    assert bound is not None and bound.obeyed(rounded.int8_codes()).all()
    return float(np.square(w - rounded.dequantize()).sum() / np.square(w).sum())


@pytest.mark.parametrize("proto", [c.proto for c in CASES if c.sizes], ids=[c.name for c in CASES if c.sizes])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_no_group_of_layers_loses_more(proto: onnx.ModelProto, seed: int) -> None:
    model = heavy(proto, seed)
    channels, layers = find_exchangeable(model.structure), bounded_layers(model)
    order, before, after = best_order(model, channels)
    ordered = reordered(model, channels, order)
    np.testing.assert_array_equal(channels.alike[order], channels.alike)
    assert after <= before
    for group in np.unique(channels.groups):
        read = [
            r
            for n, r in layers.items()
            if np.isin(channels.reads[n].ids, np.flatnonzero(channels.groups == group)).any()
        ]
        assert sum(error(ordered, r) for r in read) <= sum(error(model, r) for r in read) * (1 + 1e-6)
    assert after == pytest.approx(sum(error(ordered, r) for r in layers.values()), rel=1e-5)


def large_side_by_side(count: int = 16, window: int = 1) -> onnx.ModelProto:
    """Two Conv: every output channel of the second one has two large weights, which are neighbours."""
    proto = graph(
        f"a = {CONV} (x, w0) r = Relu (a) y = Conv <kernel_shape = [{window}, {window}]> (r, w1)",
        IMAGE,
        "float[N, 8, H, W] y",
        f"float[{count}, 4, 1, 1] w0, float[8, {count}, {window}, {window}] w1",
    )
    weight = onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == "w1")).copy()
    weight[:] = np.clip(weight, -0.1, 0.1)
    for row in range(len(weight)):
        weight[row, 2 * (row % (count // 2)) :][:2] = 1.0
    next(t for t in proto.graph.initializer if t.name == "w1").CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    return proto


def test_large_weights_get_small_neighbours() -> None:
    model = prepare(large_side_by_side())
    order, before, after = best_order(model, find_exchangeable(model.structure))
    pairs = {tuple(sorted(pair)) for pair in order.reshape(-1, 2).tolist()}
    assert pairs.isdisjoint((2 * i, 2 * i + 1) for i in range(8))
    w = model.weight(model.layers[1])
    full_range = float(np.square(w - quantize_weight(w, INT8_WEIGHTS).dequantize()).sum() / np.square(w).sum())
    assert after < 1.01 * full_range < before / 1.5


def test_without_steady_neighbours_nothing_moves() -> None:
    model = prepare(large_side_by_side(9, window=3))
    order, before, after = best_order(model, find_exchangeable(model.structure))
    assert before == after and (order == np.arange(9)).all()


def test_weights_that_two_layers_have_stay_equal() -> None:
    proto = graph(
        f"""a = {CONV} (x, w0)  r = Relu (a)  b = {CONV} (r, w1)  s = Relu (b)  c = {CONV} (s, w2)
            t = Relu (c)  y = {CONV} (t, w3)""",
        IMAGE,
        "float[N, 4, 6, 6] y",
        "float[32, 4, 1, 1] w0, float[32, 32, 1, 1] w1, float[32, 32, 1, 1] w2, float[4, 32, 1, 1] w3",
    )
    model = heavy(proto, 1)
    twins = model.with_tensors({"w2": model.store.array("w1")})
    channels = find_exchangeable(model.structure)
    assert (best_order(model, channels)[0] != np.arange(96)).any()
    assert (best_order(twins, channels)[0] == np.arange(96)).all()


symmetric = st.integers(0, 2**16).map(lambda seed: np.random.default_rng(seed).exponential(size=(2, 12, 12)))


@given(symmetric, st.booleans())
def test_exchanges_never_cost(raw: np.ndarray, shifted: bool) -> None:
    """Of one reader, or of two that have different neighbours."""
    first = np.arange(12) ^ 1
    second = np.array([ALONE, *(np.arange(10) ^ 1) + 1, ALONE])
    matrices = raw + raw.transpose(0, 2, 1)
    matrices[:, np.arange(12), np.arange(12)] = 0
    costs = list(zip(matrices, (first, second if shifted else first), strict=True))
    order = _matched(costs, 12)

    def cost(places: np.ndarray) -> float:
        return float(sum(m[places[n != ALONE], places[n[n != ALONE]]].sum() for m, n in costs))

    assert sorted(order.tolist()) == list(range(12))
    assert cost(order) <= cost(np.arange(12)) * (1 + 1e-9)
    for one in range(12):  # no single exchange is left that helps
        for other in range(one):
            swapped = order.copy()
            swapped[[one, other]] = order[[other, one]]
            assert cost(order) <= cost(swapped) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("cpu", "techniques", "moves"),
    [
        (DeployCpu.ANY, Techniques(), True),
        (DeployCpu.AVX2, Techniques(), True),
        (DeployCpu.VNNI, Techniques(), False),
        (DeployCpu.ARM64, Techniques(), False),
        (DeployCpu.ANY, without(["channel-order"]), False),
    ],
)
def test_channels_move_only_for_the_bound(cpu: DeployCpu, techniques: Techniques, moves: bool) -> None:
    model = prepare(large_side_by_side())
    start = Rescaling(model, losses={"as it is": 1.0})
    found = in_best_order(start, offered(model, cpu), techniques, Context())
    assert (found.order is not None) == moves and (found.model is not model) == moves
    assert found.losses == start.losses


def test_an_order_comes_back_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, context = prepare(large_side_by_side()), Context(cache=Cache(tmp_path))
    menu = offered(model, DeployCpu.ANY)
    first = in_best_order(Rescaling(model), menu, Techniques(), context)
    monkeypatch.setattr("onnxmpq.rescale.order.best_order", None)  # would fail
    again = in_best_order(Rescaling(model), menu, Techniques(), context)
    np.testing.assert_array_equal(first.order, again.order)
    assert first.model.proto.SerializeToString() == again.model.proto.SerializeToString()


@pytest.fixture(scope="module")
def result() -> Result:
    return convert()


def convert(*without: str, deploy_cpu: str = "any") -> Result:
    proto = heavy(residual_cnn(), 3).proto
    return onnxmpq.convert(
        proto,
        schemes=["int8"],
        size="smallest",
        latency="1000%",
        calibration=samples_for(proto, 16),
        effort=QUICK,
        deploy_cpu=deploy_cpu,
        without=(*OTHERS, *without),
    )


def test_a_plan_holds_the_order(result: Result, tmp_path: Path) -> None:
    path, proto = tmp_path / "plan.json", heavy(residual_cnn(), 3).proto
    path.write_text(result.plan.to_json())
    assert result.plan.order
    assert serialize(onnxmpq.apply(proto, path)) == serialize(result.model)


def test_no_order_where_it_is_not_asked_for() -> None:
    assert convert("channel-order").plan.order == ""
    assert convert(deploy_cpu="vnni").plan.order == ""


def test_an_order_follows_factors() -> None:
    model = heavy(residual_cnn(), 3)
    channels = find_channels(model.structure)
    factors = np.exp(np.random.default_rng(4).normal(0, 1, channels.count)).astype(np.float32)
    start = Rescaling(rescaled(model, channels, factors), factors)
    found = in_best_order(start, offered(model, DeployCpu.ANY), Techniques(), Context())
    assert found.order is not None
    restored = restore_order(
        restore_factors(model, pack_array(factors.astype("<f4"))), pack_array(found.order.astype("<i4"))
    )
    assert serialize(restored.proto) == serialize(found.model.proto)


def test_of_many_channels_so_many_are_ordered_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.rescale.order.TOGETHER", 6)
    model = prepare(large_side_by_side())
    order, before, after = best_order(model, find_exchangeable(model.structure))
    assert after < before and (order != np.arange(16)).any()
    np.testing.assert_array_equal(order // 6, np.arange(16) // 6)
