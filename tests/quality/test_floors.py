"""Quality floors: how they are spelled, when they are kept, and metrics of users."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmpq
from onnxmpq.errors import BudgetError, CalibrationError, UsageError
from onnxmpq.quality import (
    Floors,
    Metric,
    MetricScores,
    OutputQuality,
    Validation,
    implausible_scores,
    parse_floors,
    top1,
)
from tests.conftest import QUICK, SAMPLES

QUALITY = Validation(
    (OutputQuality("a", "logits", 31.0, 1.0, 0.1, 0.02, 0.98), OutputQuality("b", "values", 25.0, 1.0, 0.01)),
    8,
    True,
    metric=MetricScores("top-1", 0.75, 0.745),
)


def test_spellings() -> None:
    assert parse_floors("30dB", "0.01", "99%", "0.5%") == Floors(30.0, 0.01, 0.99, 0.005)
    assert parse_floors(30, 0.01, 0.99, 0.005) == Floors(30.0, 0.01, 0.99, 0.005)
    assert parse_floors() == Floors() and Floors().empty and not Floors(max_drop=0.0).empty
    assert Floors(30.0, 0.01, 0.99, 0.0).asked() == {
        "min_sqnr": "30dB",
        "max_divergence": "0.01",
        "min_agreement": "99%",
        "max_drop": "0%",
    }


@pytest.mark.parametrize(
    "given",
    [{"min_sqnr": "30%"}, {"max_divergence": "low"}, {"min_agreement": "101%"}, {"max_drop": "1dB"}, {"min_sqnr": ""}],
    ids=str,
)
def test_misspelt(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(given)).replace('_', '-')}.*write for example"):
        parse_floors(**given)


@dataclass(frozen=True)
class Case:
    """A floor, and what is said where it is not kept; empty where it is."""

    floors: Floors
    said: str


CASES = [
    Case(Floors(min_sqnr_db=25.0), ""),
    Case(Floors(min_sqnr_db=26.0), "SQNR 25.0 dB"),
    Case(Floors(max_divergence=0.031), ""),
    Case(Floors(max_divergence=0.029), "divergence 0.03"),
    Case(Floors(min_agreement=0.98), ""),
    Case(Floors(min_agreement=0.99), "agreement 98.0%"),
    Case(Floors(max_drop=0.005), ""),
    Case(Floors(max_drop=0.004), "top-1 dropped by 0.005"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.floors.asked()) + (" not" if case.said else ""))
def test_unmet(case: Case) -> None:
    found = case.floors.unmet(QUALITY)
    assert (found == []) if not case.said else (len(found) == 1 and case.said in found[0])


def test_floor_that_cannot_be_measured() -> None:
    with pytest.raises(UsageError, match="--labels"):
        Floors(max_drop=0.01).require_labels(False)
    with pytest.raises(UsageError, match="--min-agreement needs an output of class scores"):
        Floors(min_agreement=0.9).require_classes(False)


def test_top1() -> None:
    scores = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 3]]
    assert top1({"y": scores}, np.array([0, 1, 2, 3, 0])) == 0.8
    with pytest.raises(ValueError, match="3 labels for 5"):
        top1({"y": scores}, np.array([0, 1, 2]))
    assert top1({"y": scores}, np.array([0.0, 1, 2, 3, 0])) == 0.8
    with pytest.raises(ValueError, match=r"labels are class numbers, and 0\.25 is none"):
        top1({"y": scores}, np.array([0.0, 1, 0.25, 3, 0]))


def test_labels_that_are_no_classes_are_refused_in_one_line() -> None:
    """Before any work, as of a regression whose targets were given for top-1."""
    with pytest.raises(CalibrationError, match=r"metric top-1: labels are class numbers, and 0\.5 is none"):
        convert(labels=np.full(len(np.load(SAMPLES / "digits_test_labels.npy")), 0.5))


def convert(**given: Any) -> onnxmpq.Result:
    data: Any = {
        "calibration": SAMPLES / "digits_test.npz",
        "labels": SAMPLES / "digits_test_labels.npy",
        "samples": 30,
        "effort": QUICK,
        "without": ("gptq", "descent", "smoothquant", "channel-order", "bias-correction"),
    }
    return onnxmpq.convert(SAMPLES / "digits_cnn.onnx", **{**data, **given})


@pytest.mark.parametrize("floor", [20.0, 40.0])
def test_smallest_above_a_floor(floor: float) -> None:
    """The smallest file that keeps it, on samples that were held back; a lower floor is a smaller file."""
    found = convert(size="smallest", min_sqnr=floor)
    assert found.report.validation.worst_sqnr_db >= floor
    assert found.plan.budgets == {"size": "smallest", "min_sqnr": f"{floor:g}dB"}
    free = convert(size="smallest")
    assert free.plan.measured["size_bytes"] <= 1.02 * found.plan.measured["size_bytes"]  # kernels may differ by chance
    assert free.report.validation.worst_sqnr_db >= floor or free.plan.schemes != found.plan.schemes


def test_own_metric_is_asked_and_kept() -> None:
    asked: list[int] = []

    def share_of_zeros(outputs: Any, labels: Any) -> float:
        asked.append(len(labels))
        return float((outputs["logits"].argmax(axis=1) == labels).mean())

    found = convert(size="smallest", metric=share_of_zeros, max_drop="5%")
    metric = found.report.validation.metric
    assert metric is not None and metric.name == "share_of_zeros" and asked
    assert metric.original - metric.result <= 0.05


def test_metric_that_raises_shows_before_the_work() -> None:
    def broken(outputs: Any, labels: Any) -> float:
        raise KeyError("boxes")

    with pytest.raises(CalibrationError, match=r"metric broken raised KeyError.*boxes"):
        convert(metric=broken)
    with pytest.raises(CalibrationError, match="finite"):
        convert(metric=lambda outputs, labels: float("nan"))
    with pytest.raises(UsageError, match="imported"):
        Metric.named("no_such_module:score")


def test_floor_out_of_reach_within_the_size(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="within the budgets the quality floor cannot be kept: SQNR"):
        convert(size="16%", min_sqnr="80dB", output=tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_labels_of_other_samples() -> None:
    with pytest.raises(CalibrationError, match="labels"):
        convert(calibration=SAMPLES / "digits_calib.npz")


def test_divergence_and_agreement_of_all_outputs() -> None:
    assert QUALITY.divergence == pytest.approx(0.03) and QUALITY.agreement == 0.98
    assert replace(QUALITY, outputs=QUALITY.outputs[1:]).agreement is None


def test_fp32_scores_that_are_implausible() -> None:
    """At chance level, or right on less than half of what the model is sure of; logits and probabilities."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 200)

    def said(right: float, confidence: float, *, logits: bool = True, count: int = 200) -> str:
        """Of a model that is right on a share of the samples, and gives its class such a probability."""
        hit = np.arange(200) < round(right * 200)
        chosen = np.where(hit, labels, (labels + 1) % 10)
        rows = np.full((200, 10), (1.0 - confidence) / 9)
        rows[np.arange(200), chosen] = confidence
        order = generator.permutation(200)[:count]
        scores = (np.log(rows) + 3.0 if logits else rows).astype(np.float32)
        return implausible_scores({"y": scores[order]}, labels[order])

    assert "as by guessing among 10 classes" in said(0.1, 0.9) and "as by guessing" in said(0.0, 0.2)
    for logits in (True, False):
        assert "55 of 200 labels right, but is sure of its classes by 80% on average" in said(0.275, 0.8, logits=logits)
        assert said(0.6, 0.95, logits=logits) == said(0.82, 0.85, logits=logits) == said(0.3, 0.4, logits=logits) == ""
    assert said(0.5, 0.9, count=8) == ""
    assert implausible_scores({"y": np.zeros((3,), np.float32)}, labels[:3]) == ""
    assert implausible_scores({"y": np.zeros((3, 5), np.float32)}, None) == ""
