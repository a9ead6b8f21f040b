"""How far outputs are apart, and the code in which changes add up."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.sensitivity.divergence import Divergence, make_view
from onnxmpq.sensitivity.output_kinds import guess_kind
from tests.graphs import graph, outputs_of, residual_cnn, samples_for, token_model

seeds = st.integers(0, 10_000)


def outputs(seed: int, count: int, *shape: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((1, *shape)).astype(np.float32) for _ in range(count)]


def kl(p: np.ndarray, q: np.ndarray) -> float:
    p, q = np.exp(p - p.max(-1, keepdims=True)), np.exp(q - q.max(-1, keepdims=True))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return float((p * np.log(p / q)).sum(-1).mean())


@given(seeds, st.sampled_from([(7,), (3, 5)]), st.floats(0.01, 2.0))
def test_logits_compare_by_kl(seed: int, shape: tuple[int, ...], size: float) -> None:
    before = outputs(seed, 4, *shape)
    after = [b + size * c for b, c in zip(before, outputs(seed + 1, 4, *shape), strict=True)]
    view = make_view("y", "logits", before, 1000, 0)
    a, b = (np.concatenate([view.encode(o, 1) for o in many]) for many in (before, after))
    found = view.divergence(a, b - a)
    expected = [kl(x[0].astype(np.float64), y[0].astype(np.float64)) for x, y in zip(before, after, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert (found >= -1e-9).all()


@given(seeds)
def test_probabilities_compare_as_their_logits_do(seed: int) -> None:
    before, after = outputs(seed, 3, 6), outputs(seed + 1, 3, 6)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max())
        return e / e.sum()

    def divergence(kind: str, one: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
        view = make_view("y", kind, one, 1000, 0)  # type: ignore[arg-type]
        a, b = (np.concatenate([view.encode(o, 1) for o in many]) for many in (one, other))
        return view.divergence(a, b - a)

    as_logits = divergence("logits", before, after)
    as_probabilities = divergence("probabilities", [softmax(b) for b in before], [softmax(a) for a in after])
    np.testing.assert_allclose(as_probabilities, as_logits, rtol=1e-3, atol=1e-5)


@given(seeds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_values_do_not_depend_on_the_units_of_a_channel(seed: int, factor: float, offset: float) -> None:
    """Boxes in pixels beside scores of at most one: each channel counts by its own spread."""
    before, change = outputs(seed, 5, 3, 8), outputs(seed + 1, 5, 3, 8)
    after = [b + 0.1 * c for b, c in zip(before, change, strict=True)]

    def scaled(many: list[np.ndarray]) -> list[np.ndarray]:
        copies = [m.copy() for m in many]
        for m in copies:
            m[:, 1] = m[:, 1] * factor + offset * factor
        return copies

    def divergence(one: list[np.ndarray], other: list[np.ndarray]) -> float:
        view = make_view("y", "values", one, 1000, 0)
        a, b = (np.concatenate([view.encode(o, 1) for o in many]) for many in (one, other))
        return float(view.divergence(a, b - a).mean())

    assert divergence(scaled(before), scaled(after)) == pytest.approx(divergence(before, after), rel=0.05)


def test_values_are_relative_to_the_variance() -> None:
    before = outputs(0, 50, 4, 10)
    after = [b + np.float32(0.1) for b in before]
    view = make_view("y", "values", before, 1000, 0)
    a, b = (np.concatenate([view.encode(o, 1) for o in many]) for many in (before, after))
    assert view.divergence(a, b - a).mean() == pytest.approx(0.01, rel=0.1)


@given(seeds)
def test_codes_add_up(seed: int) -> None:
    """Every code of values is linear, sketched or not."""
    before, one, two = (outputs(seed + i, 1, 4, 50)[0] for i in range(3))
    for limit in (1000, 64):
        view = make_view("y", "values", [before], limit, seed)
        together = view.encode(one + two, 1)
        np.testing.assert_allclose(together, view.encode(one, 1) + view.encode(two, 1), rtol=1e-3, atol=1e-3)


def test_sketch_preserves_squared_distances() -> None:
    """Relative error of a count sketch of width m is about √(2/m); on average it is unbiased."""
    width = 512
    before = outputs(0, 3, 4, 2500)
    ratios = []
    for seed in range(40):
        change = outputs(seed + 100, 1, 4, 2500)[0]
        full = make_view("y", "values", before, 10**6, 0)
        sketch = make_view("y", "values", before, width, seed)
        assert (full.width, sketch.width) == (10_000, width)
        pair = [v.divergence(v.encode(before[0], 1), v.encode(change, 1))[0] for v in (full, sketch)]
        ratios.append(pair[1] / pair[0])
    spread = np.sqrt(2 / width)
    assert abs(np.mean(ratios) - 1) < 3 * spread / np.sqrt(len(ratios))
    assert np.abs(np.array(ratios) - 1).max() < 5 * spread


@given(seeds, st.integers(1, 6))
def test_several_outputs_add_and_samples_are_kept_apart(seed: int, count: int) -> None:
    logits, values = outputs(seed, count, 5), outputs(seed + 1, count, 3, 4)
    divergence = Divergence(
        (make_view("a", "logits", logits, 1000, 0), make_view("b", "values", values, 1000, 0)),
    )
    one_by_one = np.concatenate([divergence.encode([x, y], 1) for x, y in zip(logits, values, strict=True)])
    at_once = divergence.encode([np.concatenate(logits), np.concatenate(values)], count)
    np.testing.assert_array_equal(one_by_one, at_once)
    assert at_once.shape == (count, divergence.width)
    nothing = np.zeros_like(at_once)
    np.testing.assert_allclose(divergence.per_sample(at_once, nothing), 0.0, atol=1e-9)
    changed = nothing.copy()
    changed[0] = np.random.default_rng(seed).standard_normal(divergence.width)
    found = divergence.per_sample(at_once, changed)
    assert found[0] > 0 and np.allclose(found[1:], 0.0, atol=1e-9)


def test_lists_of_detections_are_left_out() -> None:
    generator = np.random.default_rng(0)
    samples = [generator.standard_normal((count, 4)).astype(np.float32) for count in (2, 0, 3)]
    view = make_view("boxes", "values", samples, 1000, 0)
    assert [view.encode(s, 1).shape for s in samples] == [(1, 0)] * 3
    assert view.divergence(np.zeros((3, 0), np.float32), np.zeros((3, 0), np.float32)).tolist() == [0.0] * 3


@dataclass(frozen=True)
class Guess:
    """A model and the kinds of its outputs."""

    id: str
    proto: onnx.ModelProto = field(repr=False)
    kinds: tuple[str, ...]


GUESSES = [
    Guess("classifier", residual_cnn(), ("logits",)),
    Guess("token logits and a pooled vector", token_model(), ("logits", "values")),
    Guess(
        "softmax",
        graph("m = MatMul (x, w)  y = Softmax (m)", "float[N, 8] x", "float[N, 4] y", "float[8, 4] w"),
        ("probabilities",),
    ),
    Guess(
        "picture",
        graph(
            "y = Conv <kernel_shape = [1, 1]> (x, w)", "float[N, 3, 8, 8] x", "float[N, 2, 8, 8] y", "float[2,3,1,1] w"
        ),
        ("values",),
    ),
    Guess("scalar", graph("y = MatMul (x, w)", "float[N, 8] x", "float[N, 1] y", "float[8, 1] w"), ("values",)),
]


@pytest.mark.parametrize("case", GUESSES, ids=lambda case: case.id)
def test_guessed_kinds(case: Guess) -> None:
    found = outputs_of(case.proto, samples_for(case.proto, 1))
    assert tuple(guess_kind(case.proto, name, value) for name, value in found.items()) == case.kinds


def rows(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((n, 3)).astype(np.float32) for n in lengths]


def test_lists_of_any_length_are_laid_out_where_there_is_nothing_else() -> None:
    lists = rows(2, 0, 4)
    assert make_view("y", "values", lists, 1000, 0).width == 0
    view = make_view("y", "values", lists, 1000, 0, padded=True)
    assert (view.width, view.elements) == (12, 12)
    for values in (*lists, *rows(1, 9)):
        code = view.encode(values, 1)
        assert code.shape == (1, 12) and np.isfinite(code).all()
        assert np.count_nonzero(code) == min(values.size, 12)
    same = view.encode(lists[0], 1)
    assert view.divergence(same, view.encode(lists[0], 1) - same) == 0.0


@given(seeds)
def test_values_that_are_not_finite_count_for_nothing(seed: int) -> None:
    before = outputs(seed, 3, 5)
    for sample in before:
        sample[0, 2] = -np.inf
    view = make_view("y", "values", before, 1000, 0)
    reference = np.concatenate([view.encode(b, 1) for b in before])
    assert np.isfinite(reference).all() and not reference[:, 2].any()
    changed = np.concatenate([view.encode(b + np.float32(0.1), 1) for b in before])
    assert np.isfinite(view.divergence(reference, changed - reference)).all()


def test_outputs_that_are_no_numbers_have_no_part() -> None:
    numbers, texts = make_view("y", "values", rows(2, 2), 1000, 0), make_view("t", "values", [np.zeros(0)] * 2, 1000, 0)
    divergence = Divergence((numbers, texts))
    assert divergence.encode([rows(2)[0], np.array(["a"], object)], 1).shape == (1, 6)
