"""How many samples effects are measured on: by the work in the graph, never by a clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu, candidates, observed_tensors
from onnxmpq.model import Model
from onnxmpq.progress import Progress, Tick
from onnxmpq.ranges import observe_ranges
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Effects, effects_of_menu
from onnxmpq.sensitivity.menu_effects import (
    ELEMENT_S,
    MAC_S,
    NODE_S,
    REFERENCE_THREADS,
    WEIGHT_BYTE_S,
    forward_seconds,
)
from onnxmpq.sensitivity.method import EFFECT_SECONDS, FEWEST_EFFECT_SAMPLES, affordable
from onnxmpq.target.load import load_target
from onnxmpq.workbench import prepare_bench
from tests.dialects.cases import rounds_activations
from tests.graphs import feeds_for, graph, outputs_of, prepared, residual_cnn, token_model

LEVEL_0 = SCHEMES["w4b32-level0"]

CONV = graph(
    "c = Conv <kernel_shape = [3, 3]> (x, w)  y = Relu (c)", "float[1, 4, 6, 6] x", "float[1, 8, 4, 4] y",
    "float[8, 4, 3, 3] w",
)  # fmt: skip


def test_the_estimate_counts_products_elements_and_nodes() -> None:
    model = prepared(CONV)
    seconds = forward_seconds(model, float_shapes(model, feeds_for(CONV)))
    macs, elements, nodes = 8 * 4 * 4 * (4 * 3 * 3), 4 * 6 * 6 + 8 * 4 * 4, 2
    expected = (macs * MAC_S + elements * ELEMENT_S + nodes * NODE_S) / REFERENCE_THREADS
    assert seconds == pytest.approx(expected, rel=1e-12)


def test_weights_beyond_the_cache_are_read_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared(token_model())
    shapes = float_shapes(model, feeds_for(token_model()))
    before = forward_seconds(model, shapes)
    weights = sum(p.parameters for r, p in model.weights.values() if r.op_type != "Gather")
    assert 0 < weights < sum(p.parameters for _, p in model.weights.values())
    monkeypatch.setattr("onnxmpq.sensitivity.menu_effects.CACHED_BYTES", weights)
    after = forward_seconds(model, shapes)
    assert after - before == pytest.approx(3 * weights * WEIGHT_BYTE_S, rel=1e-9)


@given(st.floats(1e-6, 10.0), st.integers(1, 5000), st.integers(1, 500))
def test_samples_are_few_enough_and_come_in_steps(forward_s: float, tries: int, available: int) -> None:
    count = affordable(forward_s, tries, available)
    assert 1 <= count <= available
    if count not in (available, FEWEST_EFFECT_SAMPLES):
        assert count in {FEWEST_EFFECT_SAMPLES * k << n for n in range(8) for k in (1,)} | {12 << n for n in range(8)}
        assert 0.6 * forward_s * tries * count <= 1.5 * EFFECT_SECONDS
    assert affordable(2 * forward_s, tries, available) <= count


@given(st.floats(1e-4, 0.1), st.integers(4, 10), st.integers(1, 500))
def test_menus_of_about_the_same_length_share_their_samples(forward_s: float, power: int, available: int) -> None:
    shortest, longest = 1 << power, (2 << power) - 1
    assert affordable(forward_s, shortest, available) == affordable(forward_s, longest, available)


class Counted(Progress):
    """Keeps how many steps each stage has."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        self.totals.append(total)
        yield lambda _: None


def measured(menu: Menu, model: Model, feeds: Feeds) -> tuple[Effects, list[int]]:
    counted, dialect = Counted(), DIALECTS["onnxruntime"]
    observation = observe_ranges(model, observed_tensors(model, menu), feeds, Context())
    bench = prepare_bench(model, menu, observation, dialect, Context())
    return effects_of_menu(model, menu, bench, observation, feeds, None, Context(counted)), counted.totals


def test_uint8_weights_take_no_measurement_of_their_own() -> None:
    """Their effect is that of w8's weights, and of int8's activations."""
    proto = residual_cnn()
    model = prepared(proto)
    full = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    menu = full.where(lambda _, s: s.name in ("fp32", "w8", "int8", "u8u8"))
    without = menu.where(lambda _, s: not s.unsigned_weights)
    effects, totals = measured(menu, model, feeds_for(proto, 8))
    _, totals_without = measured(without, model, feeds_for(proto, 8))
    assert totals == totals_without
    for region in model.layers:
        w8, u8u8 = SCHEMES["w8"], SCHEMES["u8u8"]
        assert u8u8 in menu[region.name]
        assert effects.of_scheme(region.name, u8u8) == effects.of_scheme(region.name, w8) > 0.0


def test_effects_of_blocks_are_those_of_the_kernel() -> None:
    """Of the whole rewritten model with one layer in MatMulNBits: at accuracy level 4 with activations rounded inside,
    where the CPU does so. Weights alone are tried where a kernel multiplies with floats."""
    proto = token_model()
    model, feeds, dialect = prepared(proto), feeds_for(proto, 1), DIALECTS["onnxruntime"]
    full = candidates(model, load_target("cpu"), dialect)
    menu = full.where(lambda name, s: s.is_fp32 or (s.name.startswith("w4b32") and name != "Gather_0"))
    observation = observe_ranges(model, observed_tensors(model, menu), feeds, Context())
    bench = prepare_bench(model, menu, observation, dialect, Context())
    effects = effects_of_menu(model, menu, bench, observation, feeds, None, Context())
    layers = [r for r in model.layers if len(menu[r.name]) > 1]
    assert {name for name, _ in effects.weights} == {name for name, _ in effects.kernels} == {r.name for r in layers}
    for region in layers:
        for scheme in menu[region.name][1:]:
            [change] = effects.own(region.name, scheme)
            written = bench.build({region.name: scheme})
            outputs = list(outputs_of(written, feeds.batch([0]), optimize=False).values())
            expected = effects.divergence.encode(outputs, 1) - effects.reference
            np.testing.assert_allclose(change, expected, atol=2e-3 * np.abs(expected).max() + 1e-5)
    apart = [np.abs(effects.own(r.name, SCHEMES["w4b32"])[0] - effects.own(r.name, LEVEL_0)[0]).max() for r in layers]
    assert (max(apart) > 0) == rounds_activations()
