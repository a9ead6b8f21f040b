"""Effects block by block beside those of the full method, on residual chains; their cache; the choice of the method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from onnxmpq.cache import Cache
from onnxmpq.context import Context
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model
from onnxmpq.ranges import params_for
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import AUTO, Effects, Perturbations, extent, fit_frame, measure_effects
from onnxmpq.sensitivity import reuse as effects_reuse
from onnxmpq.sensitivity.block_effects import level_of, measure_by_blocks
from onnxmpq.sensitivity.method import BLOCK, EFFECT_SECONDS, FULL, FULL_SECONDS
from onnxmpq.sensitivity.reuse import reused_effects, reused_effects_by_blocks
from tests.graphs import feeds_for, graph, prepared
from tests.sensitivity.test_blocks import chain, residual, weights

SHORT = graph("a = MatMul (x, w)  b = Tanh (a)  y = MatMul (b, v)", "float[N, 8] x", "float[N, 8] y",
              "float[8, 8] w, float[8, 8] v")  # fmt: skip
TENSORS = ("x", "n0", "r1", "m2", "o3")


def tries_of(model: Model, tensors: tuple[str, ...] = TENSORS) -> Perturbations:
    formats = [s.weight for s in (SCHEMES["int8"], SCHEMES["w4a8"]) if s.weight]
    rounded = {(r.name, f.name): (quantize_weight(model.weight(r), f),) for r in model.layers for f in formats}
    return Perturbations(rounded, {t: [params_for(-3.0, 3.0), params_for(-1.0, 1.0)] for t in tensors})


def both(proto: onnx.ModelProto, tries: Perturbations | None = None, count: int = 12) -> tuple[Effects, Effects]:
    """(full, by blocks)."""
    model, feeds = prepared(proto), feeds_for(proto, count)
    tries = tries_of(model) if tries is None else tries
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={"y": "values"})
    return measure_effects(model, feeds, tries, frame=frame), measure_by_blocks(model, feeds, tries, frame)


def alone(effects: Effects) -> dict[object, float]:
    return {tried: float(effects.alone(change).mean()) for tried, change in effects.by_try.items()}


@pytest.mark.parametrize("count", [3, 6])
def test_effects_by_blocks_are_about_those_of_a_full_run(count: int) -> None:
    tries = tries_of(prepared(chain(count)), TENSORS[: count + 1])
    full, found = both(chain(count), tries)
    assert found.by_blocks is not None and len(found.by_blocks.gains) == count
    assert list(found.by_try) == list(full.by_try) and found.params == full.params
    expected, actual = alone(full), alone(found)
    ratios = [actual[t] / expected[t] for t in expected]
    assert min(ratios) > 1 / 3 and max(ratios) < 3
    assert kendalltau(list(expected.values()), list(actual.values())).statistic > 0.85
    assert not found.idle


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_effects_are_at_their_level_where_few_samples_make_most_of_the_divergence(seed: int) -> None:
    """A classifier that doubts 5 of 40 samples: changes behind the last block say little about earlier ones."""
    generator = np.random.default_rng(seed)
    x, doubted = generator.normal(size=(40, 4, 8)), generator.permutation(40)[:5]
    scales = np.full(40, 20.0)
    scales[doubted] = 0.5
    proto = chain(4)
    model, specs = prepared(proto), input_specs(open_session(proto))
    feeds = Feeds({"x": (x * scales[:, None, None]).astype(np.float32)}, specs, "a test's samples")
    tries = Perturbations(tries_of(model).weights, {})
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={"y": "logits"})
    full, found = measure_effects(model, feeds, tries, frame=frame), measure_by_blocks(model, feeds, tries, frame)
    expected, actual = alone(full), alone(found)
    assert 2 / 3 < np.median([actual[t] / expected[t] for t in expected]) < 3 / 2
    assert kendalltau(list(expected.values()), list(actual.values())).statistic > 0.85


def test_the_last_block_and_far_tensors_are_measured_at_the_outputs() -> None:
    masked = "".join(residual(n, f"s{n - 1}" if n else "x") + f"s{n} = Mul (r{n}, mask) " for n in range(4))
    proto = graph(f"mask = Sigmoid (x) {masked} y = MatMul (s3, head)", "float[N, 4, 8] x", "float[N, 4, 8] y",
                  f"{weights(4)}, float[8, 8] head")  # fmt: skip
    full, found = both(proto, tries_of(prepared(proto), ("x", "mask", "n1", "s3")))
    for tensor in ("x", "mask", "s3"):
        assert found.of_activation(tensor) == pytest.approx(full.of_activation(tensor), rel=1e-3), tensor
    head = next(key for key in full.weights if key[0] not in {r for r, _ in list(full.weights)[:-2]})
    assert found.of_weight(head) == pytest.approx(full.of_weight(head), rel=1e-3)


def test_outputs_inside_of_blocks_count_as_they_are() -> None:
    """As the keys and values do that a decoder hands out."""
    body = "".join(residual(n, f"r{n - 1}" if n else "x") for n in range(3))
    outputs = "float[N, 4, 8] y, float[N, 4, 8] k0, float[N, 4, 8] k1"
    proto = graph(f"{body} y = MatMul (r2, head)", "float[N, 4, 8] x", outputs, f"{weights(3)}, float[8, 8] head")
    full, found = both(proto, tries_of(prepared(proto), ("n0", "r1")))
    expected, actual = alone(full), alone(found)
    ratios = [actual[t] / expected[t] for t in expected]
    assert min(ratios) > 1 / 3 and max(ratios) < 3


def test_weights_that_change_nothing_are_idle() -> None:
    proto = chain(3)
    for tensor in proto.graph.initializer:
        if tensor.name == "o1w":  # nothing of this block's branch arrives
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((8, 8), np.float32), tensor.name))
    model = prepared(proto)
    layers = {t.inputs[0]: t.name for t in model.layers}
    full, found = both(proto, Perturbations(tries_of(model).weights, {}))
    assert full.idle == found.idle and layers["n1"] in {*found.idle, *layers.values()}
    assert found.idle


def test_a_graph_of_one_block_has_full_effects() -> None:
    full, found = both(SHORT, Perturbations(tries_of(prepared(SHORT)).weights, {}), 5)
    assert found.by_blocks is None
    for key, change in full.weights.items():
        np.testing.assert_array_equal(change, found.weights[key])


def test_effects_by_blocks_come_back_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = prepared(chain(3)), feeds_for(chain(3), 9)
    tries = tries_of(model, TENSORS[:4])

    def effects(feeds: Feeds = feeds) -> Effects:
        return reused_effects_by_blocks(Context(cache=Cache(tmp_path)), model, feeds, tries, {}, lambda _: None)

    first = effects()
    assert first.by_blocks is not None
    with monkeypatch.context() as nothing:
        nothing.delattr(effects_reuse, "measure_by_blocks")
        again = effects()
    assert again.by_blocks is not None
    assert list(again.by_try) == list(first.by_try) and again.params == first.params
    for tried, change in first.by_try.items():
        np.testing.assert_array_equal(change, again.by_try[tried])
    assert again.by_blocks.gains == first.by_blocks.gains and again.idle == first.idle
    code = np.concatenate([first.pooled.encode([np.ones((1, 4, 8), np.float32)], 1)] * len(feeds))
    np.testing.assert_array_equal(*(e.pooled.per_sample(code, 0.1 * code) for e in (first, again)))
    with pytest.raises(NameError), monkeypatch.context() as nothing:
        nothing.delattr(effects_reuse, "measure_by_blocks")
        effects(feeds.take(range(8)))
    full = reused_effects(Context(cache=Cache(tmp_path)), model, feeds, tries, {}, lambda _: None)
    assert full.by_blocks is None


CHAIN = prepared(chain(6))


@given(st.floats(1e-4, 10.0), st.integers(10, 3000), st.integers(1, 300))
def test_the_method_follows_from_the_estimated_time(forward_s: float, tries: int, available: int) -> None:
    chosen = extent(CHAIN, AUTO, forward_s, tries, available)
    full, block = (extent(CHAIN, method, forward_s, tries, available) for method in (FULL, BLOCK))
    assert not full.by_blocks and block.by_blocks
    assert block.passes < full.passes and block.samples >= full.samples
    assert chosen in (full, block)
    shortest_s = full.passes * forward_s * tries * min(8, available)
    assert chosen.by_blocks == (shortest_s > FULL_SECONDS) and EFFECT_SECONDS <= FULL_SECONDS


def test_a_graph_of_one_block_is_measured_at_its_outputs() -> None:
    assert not extent(prepared(SHORT), BLOCK, 1.0, 1000, 100).by_blocks


def test_divergence_on_few_samples_is_brought_to_the_level_of_all() -> None:
    """By what most changes show; one that changes nothing there says nothing."""
    shapes = [np.array([1.0, 1.0, 3.0, 3.0]), np.array([2.0, 2.0, 6.0, 6.0]), np.array([0.0, 0.0, 1.0, 1.0])]
    assert level_of([*shapes, np.array([1.0, 1.0, 1.0, 1.0])], 2) == 2.0
    assert level_of([shapes[2]], 2) == level_of([], 2) == 1.0
