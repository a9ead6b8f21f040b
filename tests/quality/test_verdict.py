"""Verdicts: their laws on any figures, and what is said at the limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.quality import MetricScores, OutputQuality, Validation, judge

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
    assert verdict.level == "unknown" and "made-up" in verdict.reasons[0]


@pytest.mark.parametrize("made_up", [True, False])
def test_nan_is_bad(made_up: bool) -> None:
    broken = replace(GOOD, kl_nats=float("nan"), relative_mse=float("nan"))
    verdict = judge(Validation((VALUES, broken), 21, True), synthetic=made_up)
    assert verdict.level == "bad" and "scores" in verdict.reasons[0]


def test_nothing_that_can_be_compared_is_unknown() -> None:
    verdict = judge(Validation((), 21, True))
    assert verdict.level == "unknown" and "no floating-point output" in verdict.reasons[0]


@dataclass(frozen=True)
class Case:
    """Figures of outputs on some samples, the level, and what the first reason says."""

    outputs: tuple[OutputQuality, ...]
    samples: int
    level: str
    said: str = ""


CASES = {
    "nothing beyond a limit": Case((GOOD, VALUES), 21, "good"),
    "divergence": Case((replace(GOOD, kl_nats=0.21, top1_agreement=0.9),), 21, "bad", "0.21 nats of output scores"),
    "resnet20 at 13 dB": Case((replace(GOOD, sqnr_db=13.2, kl_nats=0.277, top1_agreement=0.7),), 21, "bad", "0.277"),
    "some divergence": Case((replace(GOOD, kl_nats=0.19, top1_agreement=0.9),), 21, "noticeable", "above 0.04"),
    "other confidence": Case((replace(GOOD, kl_nats=0.9, top1_agreement=1.0),), 21, "noticeable", "0.9 nats"),
    "few agree": Case((replace(GOOD, top1_agreement=0.6),), 210, "bad", "below 70%, sampling error 5%"),
    "few agree of few": Case((replace(GOOD, top1_agreement=0.6),), 21, "noticeable", "60% of output scores on 21"),
    "chance": Case((replace(GOOD, top1_agreement=17 / 21),), 21, "good"),
    "relative error": Case((GOOD, replace(VALUES, relative_mse=0.2, sqnr_db=6.9)), 21, "bad", "SQNR 6.9 dB"),
    "one of two": Case((replace(VALUES, relative_mse=0.05), VALUES), 21, "noticeable", "of output boxes on 21"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_limits(case: Case) -> None:
    verdict = judge(Validation(case.outputs, case.samples, True))
    assert verdict.level == case.level
    assert case.said in "".join(verdict.reasons[:1])


def test_the_worst_reason_comes_first() -> None:
    outputs = (replace(VALUES, relative_mse=0.05), replace(GOOD, kl_nats=0.5, top1_agreement=0.5))
    reasons = judge(Validation(outputs, 21, False)).reasons
    assert "scores" in reasons[0] and "21 calibration samples (bad above 0.2)" in reasons[0]
    assert any("boxes" in r for r in reasons[1:])


def test_one_sample_of_twenty_is_no_fall_of_five_points() -> None:
    one = MetricScores("top-1", 17 / 21, 16 / 21)
    few = Validation((replace(GOOD, top1_agreement=20 / 21),), 21, True, metric=one)
    assert judge(few).level == "good"
    assert judge(replace(few, samples=2100, metric=MetricScores("top-1", 0.81, 0.77))).level == "noticeable"
    verdict = judge(replace(few, samples=2100, metric=MetricScores("top-1", 0.81, 0.75)))
    assert verdict.level == "bad" and "top-1 fell from 0.81 to 0.75 on 2100 held-out samples" in verdict.reasons[0]


def test_a_metric_on_enough_samples_decides_alone() -> None:
    far = Validation((replace(GOOD, kl_nats=0.9, top1_agreement=0.96),), 400, True)
    assert judge(far).level == "bad"
    same = MetricScores("top-1", 0.8, 0.8)
    verdict = judge(replace(far, metric=same))
    assert verdict.level == "noticeable" and "but top-1 fell less" in verdict.reasons[0]
    assert judge(replace(far, samples=4000, metric=same)).level == "good"
    assert judge(replace(far, samples=21, metric=same)).level == "bad"


def test_the_unit_of_a_metric_is_its_magnitude() -> None:
    perplexity = MetricScores("log-likelihood", -4.0, -4.1)
    assert judge(Validation((GOOD,), 400, True, metric=perplexity)).level == "noticeable"
    assert judge(Validation((GOOD,), 400, True, metric=replace(perplexity, result=-4.3))).level == "bad"


def test_a_metric_that_is_not_finite_is_bad() -> None:
    verdict = judge(Validation((GOOD,), 400, True, metric=MetricScores("top-1", 0.8, float("nan"))))
    assert verdict.level == "bad" and "nan" in verdict.reasons[0]


def test_a_metric_stands_for_outputs_that_cannot_be_compared() -> None:
    lists = Validation((), 100, True, metric=MetricScores("mAP", 0.6, 0.5))
    assert judge(lists).level == "bad"
    assert judge(replace(lists, samples=2000, metric=MetricScores("mAP", 0.6, 0.6))).level == "good"
    verdict = judge(replace(lists, samples=6, metric=MetricScores("mAP", 0.6, 0.6)))
    assert verdict.level == "unknown" and "6 held-out samples are too few for mAP" in verdict.reasons[0]


def test_far_worse_than_int8_everywhere_is_noticeable() -> None:
    quality, int8 = (Validation((replace(GOOD, kl_nats=kl),), 21, True) for kl in (0.03, 0.003))
    assert judge(quality).level == "good"
    verdict = judge(quality, int8=int8)
    assert verdict.level == "noticeable" and "int8 everywhere 0.003" in verdict.reasons[0]


def test_an_output_called_output_is_not_named_twice() -> None:
    named = replace(GOOD, name="output", kl_nats=0.21, top1_agreement=0.9)
    [reason] = judge(Validation((named,), 21, True)).reasons[:1]
    assert "nats of the output on 21" in reason
