"""What is handed out: judged on held-out samples, measured last, and never nothing where the closest plan was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq import trials
from onnxmpq.allocate import parse_budgets
from onnxmpq.errors import AlreadyMetError, BudgetError, NothingFasterError, OnnxmpqError, QualityError
from onnxmpq.opening import Opened
from onnxmpq.progress import Progress
from onnxmpq.quality import Timing, verdict
from onnxmpq.runtimes import SessionSettings
from onnxmpq.schemes import Scheme
from onnxmpq.shipping import ship
from onnxmpq.shipping.guard import require_quantized
from onnxmpq.workbench import Workbench
from tests.conftest import QUICK, SAMPLES
from tests.tables import int8_pays

MODEL = SAMPLES / "digits_cnn.onnx"
DATA: dict[str, Any] = {"calibration": SAMPLES / "digits_calib.npz", "samples": 48, "effort": QUICK}
SIMPLY: dict[str, Any] = {"without": ["smoothquant", "channel-order", "gptq", "descent"]}
"""Weights are rounded to nearest: where nothing hangs on how good a result is."""
Convert = Callable[..., onnxmpq.Result]


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """By a made-up cost table, in which int8 takes half of float32's time; what is slow is kept between tests."""
    table, cache = int8_pays(MODEL, tmp_path_factory.mktemp("table")), tmp_path_factory.mktemp("kept")
    return partial(onnxmpq.convert, MODEL, cost_table=table, cache=cache, **DATA)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so strict that int8 everywhere is bad, and a few layers of it are not."""
    monkeypatch.setattr(verdict, "DIVERGENCE_NATS", verdict.Limits(2e-6, 4e-6))
    monkeypatch.setattr(verdict, "UNMOVED_AGREEMENT", 2.0)


def test_fastest_is_good_where_the_fastest_of_all_is_not(convert: Convert, strict: None) -> None:
    guarded, free = convert(latency="fastest"), convert(latency="fastest", guard=False)
    assert free.report.verdict.level == "bad" and free.plan.quality["level"] == "bad"
    assert guarded.report.verdict.level == "good"
    assert 0 < len(guarded.plan.schemes) < len(free.plan.schemes)


@pytest.mark.parametrize("budget", [{"latency": "52%"}, {"size": "29%", "latency": "60%"}], ids=["latency", "both"])
def test_a_bad_result_is_refused_and_names_a_budget_that_is_not(
    convert: Convert, tmp_path: Path, strict: None, budget: dict[str, str]
) -> None:
    target = tmp_path / "out.onnx"
    with pytest.raises(
        QualityError, match=r"divergence .* \(bad above 4e-06\).*--latency [0-9.]+% gives one"
    ) as caught:
        convert(**budget, output=target)
    assert not target.exists()
    share = str(caught.value).split("--latency ")[1].split()[0]
    assert convert(latency=share).report.verdict.level != "bad", "the budget that is named"
    allowed = convert(**budget, guard=False, output=target)
    assert target.exists() and allowed.report.verdict.level == "bad"
    assert convert(**budget, min_sqnr=1).report.verdict.level == "bad", "a floor of one's own decides"


def test_the_smallest_names_a_size_that_is_not_bad(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "DIVERGENCE_NATS", verdict.Limits(5e-7, 1e-6))
    monkeypatch.setattr(verdict, "UNMOVED_AGREEMENT", 2.0)
    with pytest.raises(QualityError, match=r"--size [0-9.]+MB gives one that is not"):
        convert(size="smallest")


def test_made_up_data_cannot_judge(convert: Convert, strict: None) -> None:
    made_up = convert(calibration=None, samples=16, **SIMPLY, latency="fastest")
    assert made_up.report.verdict.level == "unknown"


@pytest.mark.parametrize(
    ("budget", "named"),
    [({"latency": "20%"}, "--latency"), ({"size": "5%"}, "--size"), ({"latency": "40%", "size": "9%"}, "--latency")],
    ids=["latency", "size", "both"],
)
def test_a_missed_budget_names_what_works_and_leaves_the_closest_plan(
    convert: Convert, budget: dict[str, str], named: str
) -> None:
    with pytest.raises(BudgetError, match=rf"{named} [0-9.]+% .*can be met; --best-effort") as caught:
        convert(**budget, **SIMPLY)
    works = {part.split()[0]: part.split()[1] for part in str(caught.value).split("--") if part[:4] in ("late", "size")}
    assert convert(**works, **SIMPLY).plan.met
    closest = convert(**budget, **SIMPLY, best_effort=True)
    assert not closest.plan.met and closest.plan.schemes
    assert closest.report.to_dict()["plan"]["met"] is False


def test_best_effort_never_gives_up_a_floor(convert: Convert) -> None:
    result = convert(latency="51%", min_sqnr="55dB", best_effort=True)
    assert not result.plan.met and result.report.validation.worst_sqnr_db >= 55
    with pytest.raises(BudgetError, match="--best-effort"):
        convert(latency="51%", min_sqnr="55dB")


class Heard(Progress):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


OTHER_SCALES = (0.2, 3.0)  # of a region's channels, times their own: it computes something else than planned
NO_SCALES = (np.nan, np.nan)  # the graph is damaged


@pytest.mark.parametrize("latency", ["56%", "fastest"])
@pytest.mark.parametrize("factors", [OTHER_SCALES, NO_SCALES], ids=["computes something else", "damaged"])
def test_a_region_that_is_written_wrongly_is_put_back(
    convert: Convert, latency: str, factors: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kernel that saturates does: the graph of one region in int8 does not compute what was planned."""
    guilty, build = "/blocks/blocks.1/body/body.0/Conv", Workbench.build

    def broken(bench: Workbench, assignment: Mapping[str, Scheme]) -> onnx.ModelProto:
        proto = build(bench, assignment)
        if guilty in assignment and assignment[guilty].kernel == "int8":
            [weight] = [n.input[1] for n in proto.graph.node if n.name == guilty]
            [scale] = [n.input[1] for n in proto.graph.node if n.output[0] == weight]
            [scales] = [t for t in proto.graph.initializer if t.name == scale]
            values = onnx.numpy_helper.to_array(scales) * np.linspace(*factors, scales.dims[0], dtype=np.float32)
            scales.CopyFrom(onnx.numpy_helper.from_array(values, scales.name))
        return proto

    monkeypatch.setattr(Workbench, "build", broken)
    heard = Heard()
    result = convert(latency=latency, progress=heard)
    assert guilty not in result.plan.schemes and len(result.plan.schemes) > 3
    assert result.report.verdict.level == "good"
    assert [w for w in heard.warnings if guilty in w]


@pytest.mark.parametrize("budget", [{"latency": "100 s"}, {"size": "1GB"}, {"latency": "10s", "size": "100%"}], ids=str)
def test_what_the_original_meets_is_said(budget: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work: nothing is calibrated."""
    monkeypatch.setattr("onnxmpq.pipeline.observe_ranges", lambda *_: pytest.fail("worked"))
    with pytest.raises(AlreadyMetError, match=r"the original is within the budget .*--latency fastest"):
        onnxmpq.convert(MODEL, **DATA, **budget)


def test_what_the_original_meets_takes_one_made_up_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of them, where none are given; with a share of the original there is nothing to look at."""
    monkeypatch.setattr(Opened, "with_samples", lambda *_: pytest.fail("made all samples"))
    with pytest.raises(AlreadyMetError, match=r"--latency 1e\+05 ms: it takes"):
        onnxmpq.convert(MODEL, latency="100 s")
    for latency in ("60%", "1ns"):
        with pytest.raises(pytest.fail.Exception, match="made all samples"):
            onnxmpq.convert(MODEL, latency=latency)


@pytest.mark.parametrize(
    ("asked", "met", "error"),
    [
        ({"latency": "fastest"}, True, NothingFasterError),
        ({"latency": "80%"}, True, AlreadyMetError),
        ({"latency": "80%"}, False, BudgetError),
        ({"latency": "fastest", "size": "90%"}, True, None),  # smaller, by preparing alone
    ],
)
def test_a_plan_that_quantizes_nothing_is_said(asked: dict[str, str], met: bool, error: type[Exception] | None) -> None:
    job: Any = SimpleNamespace(budgets=parse_budgets(**asked))
    outcome: Any = SimpleNamespace(assignment={}, met=met)
    if error is None:
        require_quantized(job, outcome)
        return
    with pytest.raises(error):
        require_quantized(job, outcome)


def test_what_is_shown_beside_a_result(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain int8 on the same samples, also where nothing is compared with it; other numbers of threads, once."""
    monkeypatch.setattr(trials, "workers", lambda: 2)
    result = convert(latency="80%", **SIMPLY)
    found = result.report
    assert found.int8 is not None and found.int8.samples == found.validation.samples
    assert found.validation.timing is not None and found.validation.timing.threads == 1
    assert [t.threads for t in found.validation.other_timings] == [0]
    on_all = convert(latency="80%", threads=0, cost_table=None, **SIMPLY).report.validation
    assert on_all.timing is not None and on_all.timing.threads == 0
    assert [t.threads for t in on_all.other_timings] == [1]
    monkeypatch.setattr(trials, "workers", lambda: 1)
    assert not trials.other_threads(SessionSettings()), "on one core both are the same"


def timed(ratios: list[float]) -> Any:
    """A closing measurement that gives one ratio after another, and then the last one."""
    given = iter(ratios)
    latest = [ratios[0]]

    def measure(*_: Any, **__: Any) -> Timing:
        latest[0] = next(given, latest[0])
        return Timing.of(np.full(9, 1e-3), np.full(9, latest[0] * 1e-3), 1)

    return measure


def test_the_closing_measurement_decides(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan holds the budget in the loop and misses it at the end: another one is made."""
    measured_here: Any = {"cost_table": None, "latency": "95%", **SIMPLY}
    monkeypatch.setattr(ship, "time_side_by_side", timed([1.2, 0.6]))
    result = convert(**measured_here)
    assert result.plan.met
    assert result.plan.measured["latency_ms"] == pytest.approx(0.6 * result.plan.measured["original_latency_ms"])
    assert len(result.report.rounds) > 1
    monkeypatch.setattr(ship, "time_side_by_side", timed([1.2]))
    with pytest.raises(OnnxmpqError, match="cannot be met"):
        convert(**measured_here)
    assert not convert(**measured_here, best_effort=True).plan.met


def test_the_plan_holds_the_interval(convert: Convert) -> None:
    measured = convert(cost_table=None, latency="95%", **SIMPLY).plan.measured
    assert measured["latency_ms_low"] <= measured["latency_ms"] <= measured["latency_ms_high"]


def test_seconds_of_another_speed_keep_the_ratio() -> None:
    timing = Timing.of(np.linspace(1.0, 2.0, 9), np.linspace(0.5, 1.1, 9), 1)
    other = timing.in_time_of(5.0)
    assert other.result_s / other.original_s == pytest.approx(timing.ratio)
    assert replace(other, original_s=timing.original_s, result_s=timing.result_s) == timing
