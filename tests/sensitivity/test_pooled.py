"""Curvature pooled over samples: what it is, what it estimates, and that it needs fewer samples for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from onnxmpq.sensitivity.divergence import Divergence, make_view
from onnxmpq.sensitivity.pooled import PooledDivergence

seeds = st.integers(0, 10_000)
CLASSES = 6


def codes(seed: int, samples: int, *, sure: float = 1.0, rows: int = 1) -> np.ndarray:
    """Class scores, float32 [samples, rows * classes]; the larger `sure`, the fewer samples are undecided."""
    scores = np.random.default_rng(seed).standard_normal((samples, rows, CLASSES)) * sure
    return scores.reshape(samples, -1).astype(np.float32)


def classifier(reference: np.ndarray) -> Divergence:
    rows = reference.reshape(len(reference), -1, CLASSES)
    return Divergence((make_view("y", "logits", list(rows[:, None]), 10_000, 0),))


def purely(pooled: PooledDivergence) -> PooledDivergence:
    """With nothing of each sample's own curvature, and no level."""
    return replace(pooled, trusts=(0.0,), levels=(1.0,))


@given(seeds, st.sampled_from([1, 3]))
@settings(deadline=None)
def test_is_the_mean_over_all_pairs_of_samples(seed: int, rows: int) -> None:
    reference, change = codes(seed, 7, rows=rows), codes(seed + 1, 7, rows=rows)
    pooled = purely(PooledDivergence.fitted(classifier(reference), reference, [change]))
    p = softmax(reference.reshape(-1, CLASSES).astype(np.float64), axis=-1)
    expected = [
        np.mean([0.5 * d @ (np.diag(q) - np.outer(q, q)) @ d for d in sample for q in p])
        for sample in change.reshape(7, rows, CLASSES).astype(np.float64)
    ]
    np.testing.assert_allclose(pooled.per_sample(reference, change), expected, rtol=1e-5, atol=1e-9)


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_small_changes_of_all_samples_alike_are_worth_their_divergence(seed: int) -> None:
    """Independent of the sample, as the curvature is pooled: the same expectation, no level needed."""
    reference, change = codes(seed, 4000, sure=2.0), 0.05 * codes(seed + 1, 4000)
    plain = classifier(reference)
    pooled = purely(PooledDivergence.fitted(plain, reference, [change]))
    assert pooled.mean(reference, change) == pytest.approx(plain.mean(reference, change), rel=0.15)


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_level_makes_up_for_changes_that_are_larger_where_it_matters(seed: int) -> None:
    reference = codes(seed, 400, sure=4.0)
    undecided = 1.0 - softmax(reference, axis=-1).max(axis=1, keepdims=True)
    changes = [0.1 * undecided * codes(seed + k, 400) for k in range(1, 12)]
    plain = classifier(reference)
    pooled = PooledDivergence.fitted(plain, reference, changes)
    assert pooled.levels[0] > 1.5
    ratios = [pooled.mean(reference, c) / plain.mean(reference, c) for c in changes]
    assert np.exp(np.log(ratios).mean()) == pytest.approx(1.0, rel=0.1)


def test_levels_from_the_first_samples_are_brought_to_that_of_all() -> None:
    """F is the mean over all samples, whichever the changes are of."""
    reference = codes(3, 60, sure=4.0)
    plain, changes = classifier(reference), [0.1 * codes(k, 12) for k in range(4, 9)]
    few = PooledDivergence.fitted(plain, reference, changes)
    expected = np.mean([np.log(plain.mean(reference[:12], c) / purely(few).mean(reference[:12], c)) for c in changes])
    assert few.levels[0] == pytest.approx(np.exp(expected), rel=1e-6)
    assert few.at_level(3.0).levels[0] == pytest.approx(3.0 * few.levels[0]) and few.at_level(3.0).trusts == few.trusts
    turned = few.around(reference[::-1])
    np.testing.assert_allclose(turned.per_sample(reference, reference), few.per_sample(reference, reference), rtol=1e-6)
    other = few.around(codes(9, 60, sure=0.1)).per_sample(reference, reference)
    assert not np.allclose(other, few.per_sample(reference, reference), rtol=0.1)


@pytest.mark.parametrize(
    ("aimed", "samples", "least", "most"), [(1, 4, 0.0, 0.0), (0, 64, 0.0, 0.5), (1, 64, 0.8, 1.0)]
)
def test_what_halves_of_the_samples_agree_on_is_trusted(aimed: int, samples: int, least: float, most: float) -> None:
    """Every other change may touch only the two likeliest classes, which costs more than the mean curvature says."""
    reference = codes(0, samples, sure=3.0)
    likely = reference >= np.sort(reference, axis=1)[:, -2:-1]
    changes = [0.1 * codes(k + 1, samples) * (likely if aimed and k % 2 else 1.0) for k in range(80)]
    [trust] = PooledDivergence.fitted(classifier(reference), reference, changes).trusts
    assert least <= trust <= most


def test_few_samples_rank_changes_as_many_do() -> None:
    """Twenty changes, each 1.2 times the last: in which order do 16 samples of a sure classifier put them?"""
    reference = codes(0, 2000, sure=8.0)
    changes = [0.01 * 1.2**k * codes(k + 1, 2000) for k in range(20)]

    def inversions(losses: list[float]) -> int:
        return sum(a > b for i, a in enumerate(losses) for b in losses[i + 1 :])

    generator, plain_wrong, pooled_wrong = np.random.default_rng(0), 0, 0
    for _ in range(20):
        few = generator.permutation(2000)[:16]
        seen, moved = reference[few], [c[few] for c in changes]
        plain = classifier(seen)
        pooled = PooledDivergence.fitted(plain, seen, moved)
        plain_wrong += inversions([plain.mean(seen, c) for c in moved])
        pooled_wrong += inversions([pooled.mean(seen, c) for c in moved])
    assert pooled_wrong < 0.75 * plain_wrong


def test_other_outputs_stay_as_they_are() -> None:
    generator = np.random.default_rng(0)
    before = [generator.standard_normal((1, 3, 8)).astype(np.float32) for _ in range(5)]
    values = make_view("boxes", "values", before, 1000, 0)
    scores = make_view("scores", "logits", [b[:, 0] for b in before], 1000, 0)
    plain = Divergence((values, scores))
    reference = plain.encode([np.concatenate(before), np.concatenate([b[:, 0] for b in before])], 5)
    change = (0.1 * generator.standard_normal(reference.shape)).astype(np.float32)
    pooled = PooledDivergence.fitted(plain, reference, [change])
    alone = change.copy()
    alone[:, values.width :] = 0.0
    np.testing.assert_array_equal(pooled.per_sample(reference, alone), plain.per_sample(reference, alone))
    assert pooled.mean(reference, change) == pytest.approx(plain.mean(reference, change), rel=1e-6)
