"""Samples of different shapes through each step that runs a model over samples, and through whole commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxmpq
from onnxmpq.commands import profile_model, validate
from onnxmpq.cost import Effort
from onnxmpq.errors import ModelError
from onnxmpq.execution import Cutter, ForwardPass, MemoryBudget, run_samples, tensor_shapes
from onnxmpq.feeds import Feeds, load_feeds, shares_of, timed_samples
from onnxmpq.quality import compare
from onnxmpq.ranges import params_for
from onnxmpq.ranges.observe import observe
from onnxmpq.rounding import PerChannel, quantize_weight
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, specs_of
from onnxmpq.sensitivity import Perturbations, channel_axis, kl_divergence, measure_effects
from onnxmpq.sensitivity.divergence import Divergence, make_view
from onnxmpq.sensitivity.effect_samples import together
from onnxmpq.statistics import measure_moments
from tests.graphs import Array, graph, outputs_of, prepared, token_model
from tests.quality.test_comparison import noisy
from tests.tables import int8_pays

TOKENS = token_model()
MODEL = prepared(TOKENS)
HEADS = {n.name: n for n in MODEL.structure.graph.node}
PICTURES = graph(
    """a = Conv <pads = [1, 1, 1, 1]> (x, w0)  r = Relu (a)  y = Conv (r, w1)""",
    "float[N, 3, H, W] x",
    "float[N, 6, H, W] y",
    "float[8, 3, 3, 3] w0, float[6, 8, 1, 1] w1",
)
LENGTHS = (5, 3, 3, 8, 5, 5, 2, 8)
lengths_of_streams = st.lists(st.sampled_from([1, 2, 3, 6]), min_size=2, max_size=7)


def sentence(number: int, length: int) -> dict[str, Array]:
    generator = np.random.default_rng(number)
    return {
        "tokens": generator.integers(0, 8, (1, length)),
        "extra": generator.standard_normal((1, length, 32)).astype(np.float32),
    }


def sentences(lengths: Sequence[int] = LENGTHS) -> list[dict[str, Array]]:
    return [sentence(number, length) for number, length in enumerate(lengths)]


def stream(lengths: Sequence[int] = LENGTHS) -> Feeds:
    return load_feeds(sentences(lengths), input_specs(open_session(TOKENS)))


def tries() -> Perturbations:
    multiplied = [r for r in MODEL.layers if HEADS[r.nodes[0]].op_type == "MatMul"]
    weights = {
        (r.name, f.name): [quantize_weight(MODEL.matrix(place), f) for place in r.params.weights]
        for r in multiplied
        for f in [PerChannel(4)]
    }
    return Perturbations(weights, {"extra": [params_for(-1.5, 2.0), params_for(-3.0, 3.0)]})


# ---- running over samples ------------------------------------------------------------------------


def test_runs_come_in_the_order_of_samples_whatever_their_shapes() -> None:
    for threads in (1, 3):
        found = list(run_samples(TOKENS, stream(), ["logits"], threads=threads))
        for [logits], inputs in zip(found, sentences(), strict=True):
            np.testing.assert_allclose(logits, outputs_of(TOKENS, inputs)["logits"], atol=1e-5)


def test_a_sample_that_the_model_does_not_take_is_named() -> None:
    fixed = graph("y = Reshape (x, shape)", "float[N, T] x", "float[N, 2, 3] y", "int64[3] shape = {-1, 2, 3}")
    feeds = load_feeds([np.zeros((1, n), np.float32) for n in (6, 12, 5)], input_specs(open_session(fixed)))
    with pytest.raises(ModelError, match=r"^sample 2 \('x' \[5\]\): onnxruntime cannot run"):
        list(run_samples(fixed, feeds))


def test_shapes_are_those_of_the_typical_sample_unless_another_is_asked_for() -> None:
    feeds = stream((9, 4, 2))
    assert tensor_shapes(MODEL, feeds, ["logits"]) == {"logits": (1, 4, 12)}
    assert tensor_shapes(MODEL, feeds, ["logits"], feeds.largest) == {"logits": (1, 9, 12)}


@pytest.mark.parametrize("kept", [0, 2**20], ids=["nothing kept", "all kept"])
def test_a_forward_pass_over_samples_of_different_shapes(kept: int) -> None:
    feeds, cutter = stream(), Cutter(TOKENS)
    rows = feeds.stretches(4)
    forward = ForwardPass(cutter, feeds, SessionSettings(), rows=rows, memory=MemoryBudget(kept=kept))
    for stop, tensor in ((2, "h"), (6, "d"), (9, "gelu")):
        values = forward.values(stop, [tensor], cutter.live(stop))
        for row, known in zip(rows, values, strict=True):
            expected = [run_samples(TOKENS, feeds.take([i]), [tensor]) for i in range(row.start, row.stop)]
            np.testing.assert_allclose(known[tensor], np.concatenate([next(e)[0] for e in expected]), atol=1e-5)
        assert forward.start == (stop if kept else 0)


def test_samples_of_one_shape_are_run_together_once_they_are_neighbours() -> None:
    feeds = stream()
    ordered = feeds.take(together(feeds, range(len(feeds))))
    assert sorted(s.stop - s.start for s in ordered.stretches(8)) == [1, 2, 2, 3]
    alike = stream((4,) * 8)
    assert together(alike, [3, 1, 2]) == [3, 1, 2]


# ---- statistics ----------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(lengths=lengths_of_streams, data=st.data())
def test_the_order_of_shapes_changes_no_histogram_and_no_moments(lengths: list[int], data: st.DataObject) -> None:
    feeds = stream(lengths)
    other = feeds.take(data.draw(st.permutations(range(len(feeds)))))
    one, two = (observe(MODEL, f, ["gelu", "logits"]).histograms for f in (feeds, other))
    for tensor, histogram in one.items():
        assert (histogram.low, histogram.high) == (two[tensor].low, two[tensor].high)
        assert histogram.counts.sum() == two[tensor].counts.sum()
    ours, theirs = (dict(measure_moments(MODEL, MODEL.weights, f)) for f in (feeds, other))
    assert ours
    for key, moments in ours.items():
        np.testing.assert_allclose(moments.hessian, theirs[key].hessian, rtol=1e-3, atol=1e-5)


def test_moments_count_every_position_of_every_sample() -> None:
    found = dict(measure_moments(MODEL, MODEL.weights, stream()))
    rows = np.concatenate([outputs_of_inner(inputs, "gelu")[0] for inputs in sentences()]).astype(np.float64)
    [key] = [k for k, (region, _) in MODEL.weights.items() if HEADS[region.nodes[0]].input[0] == "gelu"]
    np.testing.assert_allclose(found[key].hessian[0], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-5)


def outputs_of_inner(inputs: dict[str, Array], tensor: str) -> Array:
    return next(run_samples(MODEL.store, load_feeds([inputs], input_specs(open_session(TOKENS))), [tensor]))[0]


# ---- effects -------------------------------------------------------------------------------------


def test_effects_of_a_stream_are_those_of_whole_models_run_sample_by_sample() -> None:
    feeds = stream()
    feeds = feeds.take(together(feeds, range(len(feeds))))  # some of them in one run
    found = measure_effects(MODEL, feeds, tries())
    assert found.weights
    for key, change in found.weights.items():
        changed = with_weights(key)
        for number in range(len(feeds)):
            outputs = outputs_of(changed, feeds.batch([number]), optimize=False)
            code = found.divergence.encode([outputs["logits"], outputs["pooled"]], 1)
            np.testing.assert_allclose(change[number], code[0] - found.reference[number], atol=1e-4)
            assert np.abs(change[number]).max() > 1e-3


def with_weights(key: tuple[str, str]) -> onnx.ModelProto:
    """The model with one weight quantized."""
    [region] = [r for r in MODEL.layers if r.name == key[0]]
    changed = onnx.ModelProto()
    changed.CopyFrom(MODEL.proto)
    for place, weight in zip(region.params.weights, tries().weights[key], strict=True):
        [tensor] = [t for t in changed.graph.initializer if t.name == place.tensor]
        tensor.CopyFrom(onnx.numpy_helper.from_array(place.stored(weight.dequantize()), tensor.name))
    return changed


@settings(max_examples=10, deadline=None)
@given(lengths=lengths_of_streams, data=st.data())
def test_the_order_of_shapes_changes_no_mean_effect(lengths: list[int], data: st.DataObject) -> None:
    feeds = stream(lengths)
    frame = measure_effects(MODEL, feeds, tries())
    other = feeds.take(data.draw(st.permutations(range(len(feeds)))))
    again = measure_effects(MODEL, other, tries())
    for key in frame.weights:
        one, two = (e.divergence.mean(e.reference, e.weights[key]) for e in (frame, again))
        assert one == pytest.approx(two, rel=1e-2, abs=1e-9)


@given(rows=st.lists(st.integers(1, 6), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_divergence_of_class_scores_is_the_mean_over_the_rows_of_each_sample(rows: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    before = [generator.standard_normal((1, n, 4)).astype(np.float32) for n in rows]
    after = [x + 0.1 * generator.standard_normal(x.shape).astype(np.float32) for x in before]
    # as many rows in a code as make every sample's rows count alike
    view = make_view("y", "logits", [*before, np.zeros((1, 60, 4), np.float32)], 4096, 0, ragged=True)
    for a, b in zip(before, after, strict=True):
        one, two = view.encode(a, 1), view.encode(b, 1)
        expected = kl_divergence(a.astype(np.float64), b.astype(np.float64)).mean()
        assert view.divergence(one, two - one)[0] == pytest.approx(expected, rel=1e-3)


@given(sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_divergence_of_values_is_the_mean_over_the_elements_of_each_sample(
    sizes: list[tuple[int, int]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    spread = np.array([1.0, 20.0, 0.1])[None, :, None, None]
    before = [(spread * generator.standard_normal((1, 3, *s))).astype(np.float32) for s in [*sizes, (2, 2)]]
    after = [x + (0.1 * spread * generator.standard_normal(x.shape)).astype(np.float32) for x in before]
    view = make_view("y", "values", before, 4096, 0, ragged=True)
    values = np.concatenate([x[0].reshape(3, -1) for x in before], axis=1).astype(np.float64)
    deviation = values.std(axis=1)[None, :, None, None]
    for a, b in zip(before, after, strict=True):
        one, two = view.encode(a, 1), view.encode(b, 1)
        expected = np.square((a.astype(np.float64) - b) / deviation).mean()
        assert view.divergence(one, two - one)[0] == pytest.approx(expected, rel=2e-2)


def test_several_samples_of_one_shape_have_the_codes_of_single_ones() -> None:
    samples = [np.random.default_rng(n).standard_normal((1, n, 6)).astype(np.float32) for n in (3, 3, 5)]
    for kind, limit in (("logits", 4096), ("values", 4096), ("values", 8)):
        view = make_view("y", kind, samples, limit, 0, ragged=True)  # type: ignore[arg-type]
        both = view.encode(np.concatenate(samples[:2]), 2)
        np.testing.assert_allclose(both, np.concatenate([view.encode(s, 1) for s in samples[:2]]), rtol=1e-6)
        assert Divergence((view,)).encode([samples[2]], 1).shape == (1, view.width)


def test_samples_of_shapes_that_a_view_was_not_made_of() -> None:
    known, longer, wider = (
        np.random.default_rng(n).standard_normal(s) for n, s in ((0, (1, 3, 6)), (1, (1, 9, 6)), (2, (1, 3, 7)))
    )
    for kind in ("logits", "values"):
        for limit in (8, 4096):
            view = make_view("y", kind, [known.astype(np.float32)] * 3, limit, 0, ragged=True)  # type: ignore[arg-type]
            for values in (longer, wider, np.zeros((1, 0, 6))):
                code = view.encode(values.astype(np.float32), 1)
                assert (code.shape, np.isfinite(code).all()) == ((1, view.width), True)


def test_effects_fitted_on_samples_of_one_shape_judge_others() -> None:
    found = measure_effects(MODEL, stream((5, 2, 5)).take([0, 2]), tries())
    for inputs in sentences((9, 1)):
        outputs = outputs_of(TOKENS, inputs)
        code = found.divergence.encode([outputs["logits"], outputs["pooled"]], 1)
        assert found.divergence.per_sample(code, np.zeros_like(code)) == 0.0
        moved = found.divergence.encode([outputs["logits"] + 0.5 * outputs["logits"], outputs["pooled"]], 1)
        assert found.divergence.per_sample(code, moved - code) > 0.0


def test_channels_of_outputs_whose_shapes_differ() -> None:
    assert channel_axis([(1, 3, 8, 8), (1, 3, 9, 7)]) == 1
    assert channel_axis([(1, 4, 16), (1, 9, 16)]) == 2
    assert channel_axis([(1, 4), (1, 5)]) is None
    assert channel_axis([(4,), (5,)]) is None
    assert channel_axis([(4, 2, 3), (5, 3)]) is None


# ---- comparison ----------------------------------------------------------------------------------


def test_quality_counts_every_value_of_every_sample() -> None:
    other = noisy(TOKENS, 0.1)
    found = compare(TOKENS, other, stream(), {"logits": "logits"}, settings=SessionSettings(), held_out=True)
    runs = [(outputs_of(TOKENS, i)["logits"], outputs_of(other, i)["logits"]) for i in sentences()]
    a, b = (np.concatenate([r[side][0] for r in runs]).astype(np.float64) for side in (0, 1))
    logits, pooled = found.outputs
    assert logits.sqnr_db == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=0.05)
    assert logits.kl_nats == pytest.approx(kl_divergence(a, b).mean(), rel=1e-2)
    assert logits.relative_mse == pytest.approx((((a - b) ** 2).mean(axis=0) / a.var(axis=0)).mean(), rel=1e-2)
    assert pooled.name == "pooled"


def test_a_list_of_detections_is_not_compared_by_position() -> None:
    listed = graph(
        "m = MatMul (x, w)  z = Greater (m, zero)  i = NonZero (z)  k = Transpose (i)  y = GatherND (m, k)",
        "float[N, T, 4] x",
        "float[K] y, float[N, T, 6] m",
        "float[4, 6] w, float zero = {0.0}",
    )
    generator = np.random.default_rng(0)
    samples = [generator.standard_normal((1, n, 4)).astype(np.float32) for n in (3, 5, 3, 5)]
    feeds = load_feeds(samples, input_specs(open_session(listed)))
    found = compare(listed, noisy(listed, 0.2), feeds, {}, settings=SessionSettings(), held_out=False)
    assert [o.name for o in found.outputs] == ["m"]


# ---- whole commands ------------------------------------------------------------------------------

QUICK = Effort(seconds=0.02, runs=2, rounds=2)


def pictures() -> list[Array]:
    sizes = [(8, 8), (12, 8), (8, 8), (16, 16), (9, 7), (12, 8), (8, 8), (10, 10)]
    return [np.random.default_rng(n).standard_normal((1, 3, *size)).astype(np.float32) for n, size in enumerate(sizes)]


@pytest.mark.parametrize("name", ["tokens", "pictures"])
def test_conversion_calibration_profile_and_validation(name: str, tmp_path: Path) -> None:
    proto, samples = (TOKENS, sentences()) if name == "tokens" else (PICTURES, pictures())
    source, result = tmp_path / "model.onnx", tmp_path / "result.onnx"
    onnx.save(proto, source)
    options: dict[str, Any] = {"calibration": samples, "effort": QUICK}
    made = onnxmpq.convert(source, **options, size="smallest", cache=False, guard=False, output=result)
    assert made.report.validation.worst_sqnr_db > 12.0
    assert any("latency is that of one of median size" in note for note in made.plan.notes)
    ranges = onnxmpq.calibrate(source, calibration=samples, cache=False)
    assert ranges.samples["count"] == 6
    assert profile_model(source, **options).node_s
    found = validate(source, result, load_feeds(samples, specs_of(str(source))))
    assert found.samples == 8
    assert found.worst_sqnr_db > 12.0


def test_a_stream_of_one_shape_is_converted_as_its_array(tmp_path: Path) -> None:
    samples = sentences((4,) * 8)
    stacked = {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}
    costs = int8_pays(TOKENS, tmp_path)  # no clock decides between plans
    options: dict[str, Any] = {"size": "smallest", "cost_table": costs, "cache": False, "guard": False}
    one, two = (onnxmpq.convert(TOKENS, calibration=c, **options).model for c in (samples, stacked))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_a_shape_that_is_asked_for_is_timed_instead() -> None:
    [(_, timed)] = timed_samples(stream((9, 4, 2)), shares_of({"tokens": "1x16"})).parts
    inputs = timed.batch([timed.typical])
    assert (len(timed), timed.timed) == (1, "")
    assert {name: values.shape for name, values in inputs.items()} == {"tokens": (1, 16), "extra": (1, 16, 32)}
