"""The entropy estimator against the procedure of Migacz (GTC 2017), bin by bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy as kullback_leibler

from onnxmpq.ranges import ESTIMATORS
from onnxmpq.ranges.entropy import divergences, kept_bins
from onnxmpq.ranges.histogram import Histogram

counts = arrays(np.int64, st.integers(24, 80), elements=st.one_of(st.just(0), st.integers(0, 1000)))


def reference(values: np.ndarray, levels: int, kept: int) -> float:
    """Divergence at one threshold, by loops over bins."""
    if not values[:kept].any():
        return float("inf")
    clipped = values[:kept].astype(float)
    clipped[-1] += values[kept:].sum()
    merged = np.zeros(kept)
    for level in range(levels):
        inside = [k for k in range(kept) if level * kept / levels <= k < (level + 1) * kept / levels]
        occupied = [k for k in inside if values[k] > 0]
        for k in occupied:
            merged[k] = sum(values[j] for j in inside) / len(occupied)
    return float(kullback_leibler(clipped, merged))


@given(counts, st.sampled_from([4, 8, 16]))
def test_divergences_are_those_of_the_procedure(values: np.ndarray, levels: int) -> None:
    values = values.astype(float)
    values[-1] += 1  # the last bin is occupied
    tries = list(range(levels, len(values) + 1))
    expected = [reference(values, levels, kept) for kept in tries]
    np.testing.assert_allclose(divergences(values, levels, tries), expected, rtol=1e-9, atol=1e-12)


@given(counts, st.sampled_from([8, 16]), st.sampled_from([1, 3]))
def test_the_best_threshold_is_kept(values: np.ndarray, levels: int, stride: int) -> None:
    kept = kept_bins(values, levels, stride)
    smooth = values.copy()
    smooth[0] = smooth[1]
    last = int(np.flatnonzero(smooth).max(initial=0)) + 1
    if last <= levels:
        assert kept == last
        return
    tries = [*range(levels, last, stride), last]
    losses = {t: reference(smooth[:last], levels, t) for t in tries}
    assert kept in tries
    assert losses[kept] <= min(losses.values()) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("sign", ["both", "positive", "negative"])
def test_tail_is_clipped_and_zeros_do_not_matter(sign: str) -> None:
    generator = np.random.default_rng(0)
    x = generator.laplace(size=200_000).astype(np.float32)
    x = {"both": x, "positive": np.abs(x), "negative": -np.abs(x)}[sign]
    found = []
    for zeros in (0, 400_000):
        histogram = Histogram()
        histogram.add(np.concatenate([x, np.zeros(zeros, np.float32)]))
        found.append(ESTIMATORS["entropy"](histogram))
    assert found[0] == found[1]
    reach = max(-found[0].low, found[0].high)
    assert 3.0 < reach < 0.9 * float(np.abs(x).max())
    assert (found[0].low < 0, found[0].high > 0) == (sign != "positive", sign != "negative")
