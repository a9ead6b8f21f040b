"""Verdicts: their laws on any figures, and what is said at the limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.comparison import MetricScores, OutputQuality, Validation
from onnxmpq.verdict import judge

ORDER = {"good": 0, "noticeable": 1, "bad": 2}
ANY = st.floats(allow_nan=True, allow_infinity=True)
GOOD = OutputQuality("scores", "logits", 40.0, 1.0, 1e-4, 1e-4, 1.0)
VALUES = OutputQuality("boxes", "values", 40.0, 1.0, 1e-4)


def outputs(numbers: st.SearchStrategy[float] = ANY) -> st.SearchStrategy[OutputQuality]:
    classes = st.builds(OutputQuality, st.just("y"), st.just("logits"), *[numbers] * 5)
    return classes | st.builds(OutputQuality, st.just("z"), st.just("values"), *[numbers] * 3)


VALIDATIONS = st.builds(
    Validation,
    st.lists(outputs(), max_size=3).map(tuple),
    st.integers(0, 500),
    st.booleans(),
    metric=st.none() | st.builds(MetricScores, st.just("top-1"), ANY, ANY),
)


@given(VALIDATIONS, st.none() | VALIDATIONS, st.booleans())
def test_any_figures_get_a_verdict_with_reasons(quality: Validation, int8: Validation | None, made_up: bool) -> None:
    verdict = judge(quality, int8=int8, synthetic=made_up)
    assert (verdict.level == "good") == (not verdict.reasons)
    assert all(r and "\n" not in r for r in verdict.reasons)


SHARE = st.floats(0.0, 1.0)
FIGURES = st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 5.0), SHARE, st.none() | SHARE)


def validation(figures: tuple[float, float, float, float | None], samples: int) -> Validation:
    relative, kl, disagreement, metric = figures
    scores = replace(GOOD, kl_nats=kl, top1_agreement=1.0 - disagreement)
    measured = None if metric is None else MetricScores("top-1", 0.8, 0.8 - metric)
    return Validation((scores, replace(VALUES, relative_mse=relative)), samples, True, metric=measured)


@given(FIGURES, FIGURES, st.integers(1, 500), st.floats(0.0, 1.0))
def test_worse_figures_never_get_a_better_level(
    one: tuple[float, float, float, float | None],
    other: tuple[float, float, float, float | None],
    samples: int,
    k: float,
) -> None:
    if one[3] is None or other[3] is None:
        one, other = (*one[:3], None), (*other[:3], None)
    worse = tuple(max(a, b) if a is not None and b is not None else None for a, b in zip(one, other, strict=True))
    int8 = validation((k, k, 0.0, None), samples)
    levels = [ORDER[judge(validation(f, samples), int8=int8).level] for f in (one, worse)]  # type: ignore[arg-type]
    assert levels[0] <= levels[1]


@given(FIGURES, st.integers(1, 500))
def test_an_output_more_never_gets_a_better_level(
    figures: tuple[float, float, float, float | None], samples: int
) -> None:
    both = validation((*figures[:3], None), samples)
    levels = [ORDER[judge(replace(both, outputs=(o,))).level] for o in both.outputs]
    assert ORDER[judge(both).level] == max(levels)


def test_made_up_samples_cannot_judge() -> None:
    verdict = judge(Validation((GOOD,), 21, True), synthetic=True)
    assert verdict.level == "unknown" and "made up" in verdict.reasons[0]


@pytest.mark.parametrize("made_up", [True, False])
def test_nan_is_bad(made_up: bool) -> None:
    broken = replace(GOOD, kl_nats=float("nan"), relative_mse=float("nan"))
    verdict = judge(Validation((VALUES, broken), 21, True), synthetic=made_up)
    assert verdict.level == "bad" and "scores" in verdict.reasons[0]


def test_nothing_that_can_be_compared_is_unknown() -> None:
    verdict = judge(Validation((), 21, True))
    assert verdict.level == "unknown" and "no floating-point output" in verdict.reasons[0]


def test_reasons_name_limit_and_samples() -> None:
    bad = replace(GOOD, kl_nats=0.9, top1_agreement=0.6)
    divergence, agreement = judge(Validation((bad,), 21, True)).reasons
    assert "0.9 nats" in divergence and "21 held-out samples" in divergence and "bad above" in divergence
    assert "60%" in agreement and "bad below" in agreement


def test_one_sample_of_twenty_is_no_fall_of_five_points() -> None:
    one = MetricScores("top-1", 17 / 21, 16 / 21)
    few = Validation((replace(GOOD, top1_agreement=20 / 21),), 21, True, metric=one)
    assert judge(few).level == "good"
    assert judge(replace(few, samples=2100, metric=MetricScores("top-1", 0.81, 0.77))).level == "noticeable"
    verdict = judge(replace(few, samples=2100, metric=MetricScores("top-1", 0.81, 0.75)))
    assert verdict.level == "bad" and "top-1 fell from 0.81 to 0.75 on 2100 held-out samples" in verdict.reasons[0]


def test_a_metric_on_enough_samples_decides_alone() -> None:
    scaled = replace(GOOD, kl_nats=0.9, top1_agreement=1.0)
    assert judge(Validation((scaled,), 400, True)).level == "bad"
    assert judge(Validation((scaled,), 400, True, metric=MetricScores("top-1", 0.8, 0.8))).level == "good"


def test_far_worse_than_int8_everywhere_is_noticeable() -> None:
    quality, int8 = (Validation((replace(GOOD, kl_nats=kl),), 21, True) for kl in (0.04, 0.004))
    assert judge(quality).level == "good"
    verdict = judge(quality, int8=int8)
    assert verdict.level == "noticeable" and "int8 everywhere 0.004" in verdict.reasons[0]
