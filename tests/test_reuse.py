"""Values from the cache are those that would be computed; what they depend on decides whether they are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from onnxmpq.cache import Cache
from onnxmpq.context import Context
from onnxmpq.feeds.types import Feeds
from onnxmpq.files import Archive
from onnxmpq.model import Model
from onnxmpq.ranges import Observation, params_for
from onnxmpq.ranges import reuse as ranges_reuse
from onnxmpq.ranges.reuse import observed
from onnxmpq.rounding import Dual, QuantizedWeight, quantize_weight
from onnxmpq.schemes import INT8_WEIGHTS
from onnxmpq.sensitivity import Effects, Perturbations
from onnxmpq.sensitivity import reuse as effects_reuse
from onnxmpq.sensitivity.reuse import reused_effects
from onnxmpq.weights import Compensated, Techniques, compensated, rounded, without
from onnxmpq.weights import reuse as weights_reuse
from onnxmpq.weights.bound import pair_bound
from tests.graphs import feeds_for, prepared, residual_cnn, token_model

HOMES: Mapping[str, ModuleType] = {
    "observe": ranges_reuse,
    "round_weights": weights_reuse,
    "measure_effects": effects_reuse,
    "fit_frame": effects_reuse,
}
TENSORS = ("x", "a", "r1", "s")
FORMATS = (INT8_WEIGHTS, Dual(4, 16))


def ignore(_: int) -> None:
    pass


def perturbations(model: Model) -> Perturbations:
    weights = {(r.name, f.name): (quantize_weight(model.weight(r), f),) for r in model.layers for f in FORMATS}
    return Perturbations(weights, {t: [params_for(-1.5, 2.0), params_for(0.0, 3.0)] for t in TENSORS})


@dataclass
class Setting:
    """A model, its samples, and a cache that starts empty."""

    folder: Path
    model: Model
    feeds: Feeds

    def cache(self) -> Cache:
        return Cache(self.folder)

    def effects(self, cache: Cache, tries: Perturbations, feeds: Feeds | None = None) -> Effects:
        return reused_effects(Context(cache=cache), self.model, feeds or self.feeds, tries, {}, ignore)

    def rounded(
        self, cache: Cache, techniques: Techniques, feeds: Feeds | None = None
    ) -> dict[tuple[str, str], QuantizedWeight]:
        formats = {(r.name, f.name): f for r in self.model.layers for f in FORMATS}
        return rounded(Context(cache=cache), self.model, formats, feeds or self.feeds, techniques, ignore)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, prepared(residual_cnn()), feeds_for(residual_cnn(), 6))


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Sequence[object]]:
    """Arguments of every call of a function that computes what is not found."""
    calls: list[Sequence[object]] = []
    home = HOMES[name]
    inner: Callable[..., object] = getattr(home, name)
    monkeypatch.setattr(home, name, lambda *a, **k: calls.append(a) or inner(*a, **k))
    return calls


def assert_same_effects(one: Effects, two: Effects) -> None:
    np.testing.assert_array_equal(one.reference, two.reference)
    assert list(one.weights) == list(two.weights)
    assert list(one.activations) == list(two.activations)
    assert one.params == two.params
    for mine, other in ((one.weights, two.weights), (one.activations, two.activations)):
        for key, change in mine.items():
            np.testing.assert_array_equal(change, other[key], err_msg=str(key))
            assert change.dtype == np.float32


@pytest.mark.parametrize("proto", [residual_cnn(), token_model()], ids=["logits", "two outputs"])
def test_effects_come_back_bit_for_bit(proto: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(tmp_path, prepared(proto), feeds_for(proto, 6))
    tries = Perturbations(perturbations(setting.model).weights, {})
    first = setting.effects(setting.cache(), tries)
    measured, fitted = count_calls(monkeypatch, "measure_effects"), count_calls(monkeypatch, "fit_frame")
    cache = setting.cache()
    again = setting.effects(cache, tries)
    assert measured == fitted == []
    assert_same_effects(first, again)
    assert again.divergence.kinds == first.divergence.kinds
    for key in first.weights:
        assert again.of_weight(key) == first.of_weight(key)
    assert cache.reused == {"effects": (tries.count, tries.count)}


def test_a_menu_that_differs_a_little_measures_only_what_is_new(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = perturbations(setting.model)
    first, last = next(iter(tries.weights)), list(tries.weights)[-1]
    fewer = Perturbations(
        {k: w for k, w in tries.weights.items() if k != first}, dict(list(tries.activations.items())[1:])
    )
    setting.effects(setting.cache(), fewer)
    calls = count_calls(monkeypatch, "measure_effects")
    cache = setting.cache()
    found = setting.effects(cache, tries)
    [(_, _, measured)] = [c[:3] for c in calls]
    assert isinstance(measured, Perturbations)
    assert set(measured.weights) == {first} and set(measured.activations) == {"x"}
    assert cache.reused["effects"] == (tries.count - 3, tries.count)
    assert last in found.weights
    assert_same_effects(found, setting.effects(Cache(None), tries))


def test_effects_go_on_where_they_were_stopped(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.measure.GROUP", 1)
    tries, done = perturbations(setting.model), 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done > tries.count // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reused_effects(Context(cache=setting.cache()), setting.model, setting.feeds, tries, {}, stop)
    calls = count_calls(monkeypatch, "measure_effects")
    cache = setting.cache()
    found = setting.effects(cache, tries)
    [measured] = [c[2] for c in calls]
    reused, total = cache.reused["effects"]
    assert isinstance(measured, Perturbations)
    assert reused == tries.count - measured.count and 0 < reused < total
    assert_same_effects(found, setting.effects(Cache(None), tries))


def test_rounding_goes_on_where_it_was_stopped(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = {(r.name, f.name): f for r in setting.model.layers for f in FORMATS}
    ticks: list[int] = []

    def stop(count: int) -> None:
        ticks.append(count)
        if len(ticks) == 4:  # the first one counts what was found
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounded(Context(cache=setting.cache()), setting.model, formats, setting.feeds, Techniques(), stop)
    calls = count_calls(monkeypatch, "round_weights")
    again = setting.rounded(setting.cache(), Techniques())
    [missing] = [c[1] for c in calls]
    assert isinstance(missing, dict) and len(missing) == len(formats) - 3
    fresh = setting.rounded(Cache(None), Techniques())
    for key, weight in fresh.items():
        np.testing.assert_array_equal(again[key].dequantize(), weight.dequantize())


def test_other_samples_weights_or_ranges_are_not_found(setting: Setting) -> None:
    tries = perturbations(setting.model)
    setting.effects(setting.cache(), tries)
    key = next(iter(tries.weights))
    [weight] = tries.weights[key]
    moved = (replace(weight, scales=weight.scales * np.float32(1.001)),)
    changes = {
        "samples": (tries, feeds_for(residual_cnn(), 6, seed=2), 0),
        "a scale": (Perturbations({**tries.weights, key: moved}, tries.activations), setting.feeds, tries.count - 1),
        "a range": (
            Perturbations(tries.weights, {**tries.activations, "a": [params_for(0.0, 3.1)]}),
            setting.feeds,
            tries.count - 2,
        ),
    }
    for what, (changed, feeds, expected) in changes.items():
        cache = setting.cache()
        found = setting.effects(cache, changed, feeds)
        assert cache.reused["effects"] == (expected, changed.count), what
        assert_same_effects(found, setting.effects(Cache(None), changed, feeds))


def test_another_model_of_the_same_names_is_not_found(setting: Setting) -> None:
    tries = perturbations(setting.model)
    setting.effects(setting.cache(), tries)
    proto = residual_cnn()
    bias = next(t for t in proto.graph.initializer if t.name == "b1")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1e-3), "b1"))
    cache = setting.cache()
    reused_effects(Context(cache=cache), prepared(proto), setting.feeds, tries, {}, ignore)
    assert cache.reused["effects"] == (0, tries.count)


def test_histograms_come_back(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    first = observed(Context(cache=setting.cache()), setting.model, setting.feeds, ["x", "a", "s"], ignore)
    calls = count_calls(monkeypatch, "observe")
    cache = setting.cache()
    again = observed(Context(cache=cache), setting.model, setting.feeds, ["a", "r1", "s"], ignore)
    assert [c[2] for c in calls] == [["r1"]]
    assert cache.reused == {"activation ranges": (2, 3)}
    assert list(again.histograms) == ["a", "r1", "s"]
    for tensor in ("a", "s"):
        one, two = first.histograms[tensor], again.histograms[tensor]
        np.testing.assert_array_equal(one.counts, two.counts)
        assert (one.limit, one.low, one.high) == (two.limit, two.low, two.high)
        assert first.shapes[tensor] == again.shapes[tensor]


def test_rounded_weights_come_back(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    first = setting.rounded(setting.cache(), Techniques())
    calls = count_calls(monkeypatch, "round_weights")
    again = setting.rounded(setting.cache(), Techniques())
    assert [c[1] for c in calls] == [{}], "nothing is left to round"
    assert list(first) == list(again)
    for key, weight in first.items():
        other = again[key]
        np.testing.assert_array_equal(weight.codes, other.codes)
        np.testing.assert_array_equal(weight.scales, other.scales)
        assert (weight.format, weight.block) == (other.format, other.block)
        assert (weight.multipliers is None) == (other.multipliers is None)
        if weight.multipliers is not None and other.multipliers is not None:
            np.testing.assert_array_equal(weight.multipliers, other.multipliers)
    for techniques, feeds in ((without(["descent"]), None), (Techniques(), feeds_for(residual_cnn(), 6, seed=2))):
        cache = setting.cache()
        setting.rounded(cache, techniques, feeds)
        assert cache.reused["rounded weights"][0] == 0


def test_a_second_rounding_comes_back(setting: Setting) -> None:
    weights = {
        r.name: quantize_weight(setting.model.weight(r), f, bound=pair_bound(r, r.params.weights[0], f))
        for r, f in zip(setting.model.layers, FORMATS, strict=False)
    }
    name = next(iter(weights))
    changed = dict(reversed(weights.items()))
    bias = np.full(len(weights[name].codes), -1e-30, np.float32)
    found = Compensated(changed, {name: bias}, {"first": 0.1, "cross": 1 / 3}, ("cross",))
    calls: list[int] = []

    def compute() -> Compensated:
        calls.append(1)
        return found

    for _ in range(2):
        again = compensated(Context(cache=setting.cache()), setting.model, weights, ["model", {"a": "int8"}], compute)
        assert again.losses == found.losses and again.kept == found.kept
        assert list(again.weights) == list(found.weights)
        for region, weight in found.weights.items():
            np.testing.assert_array_equal(again.weights[region].codes, weight.codes)
            np.testing.assert_array_equal(again.weights[region].dequantize(), weight.dequantize())
        np.testing.assert_array_equal(again.biases[name], found.biases[name])
    assert len(calls) == 1
    compensated(Context(cache=setting.cache()), setting.model, weights, ["model", {"a": "w4a8"}], compute)
    assert len(calls) == 2


# ---- entries that were made to deceive


def entries(folder: Path) -> list[tuple[Path, Archive]]:
    return [(path, Archive.from_bytes(path.read_bytes())) for path in sorted(folder.rglob("*.npz"))]


def cut(entry: Archive) -> Archive:
    """Every array one shorter along its first axis."""
    return replace(entry, arrays={n: v[:-1] if v.ndim else v for n, v in entry.arrays.items()})


def widened(entry: Archive) -> Archive:
    return replace(entry, arrays={n: v.astype(np.result_type(v, np.float64)) for n, v in entry.arrays.items()})


def undefined(entry: Archive) -> Archive:
    """NaN in every array of floats, the lowest number in those of integers."""

    def spoilt(values: np.ndarray) -> np.ndarray:
        floats = values.dtype.kind == "f"
        return np.full_like(values, np.nan if floats else np.iinfo(values.dtype).min)

    return replace(entry, arrays={n: spoilt(v) for n, v in entry.arrays.items()})


SPOILT: Mapping[str, Callable[[Archive], Archive]] = {
    "an axis shorter": cut,
    "of another dtype": widened,
    "not finite, or out of range": undefined,
    "without arrays": lambda entry: replace(entry, arrays={}),
    "of another key": lambda entry: replace(entry, meta={**entry.meta, "key": "0" * 64}),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_entries_that_do_not_fit_are_computed_again(spoil: Callable[[Archive], Archive], setting: Setting) -> None:
    tries = perturbations(setting.model)

    def all_of_it(cache: Cache) -> tuple[Observation, Mapping[tuple[str, str], QuantizedWeight], Effects]:
        context = Context(cache=cache)
        seen = observed(context, setting.model, setting.feeds, TENSORS, ignore)
        return seen, setting.rounded(cache, Techniques()), setting.effects(cache, tries)

    first = all_of_it(setting.cache())
    for path, entry in entries(setting.folder):
        path.write_bytes(spoil(entry).to_bytes())
    cache = setting.cache()
    again = all_of_it(cache)
    assert {what: count for what, (count, _) in cache.reused.items()} == {
        "activation ranges": 0,
        "rounded weights": 0,
        "effects": 0,
    }
    assert_same_effects(first[2], again[2])
    for key, weight in first[1].items():
        np.testing.assert_array_equal(weight.dequantize(), again[1][key].dequantize())
    for tensor, histogram in first[0].histograms.items():
        np.testing.assert_array_equal(histogram.counts, again[0].histograms[tensor].counts)
    cache = setting.cache()
    all_of_it(cache)
    assert all(count == total for count, total in cache.reused.values()), "written anew"


def test_weights_from_the_cache_obey_the_bound_on_pairs(setting: Setting) -> None:
    bounded = INT8_WEIGHTS.without_saturation
    [region, *_] = setting.model.layers
    formats = {(region.name, bounded.name): bounded}

    def run(cache: Cache) -> QuantizedWeight:
        context = Context(cache=cache)
        [weight] = rounded(context, setting.model, formats, setting.feeds, Techniques(), ignore).values()
        return weight

    first = run(setting.cache())
    [(path, entry)] = entries(setting.folder)
    full = np.full_like(entry.arrays["codes"], 127)
    path.write_bytes(replace(entry, arrays={**entry.arrays, "codes": full}).to_bytes())
    np.testing.assert_array_equal(run(setting.cache()).codes, first.codes)
