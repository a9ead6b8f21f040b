"""The last lines: what they say of every state that a conversion may end in, short, and the same as data."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from rich.console import Console

from onnxmpq.plan import Plan
from onnxmpq.profiling import Footprint
from onnxmpq.quality import MetricScores, OutputQuality, StepTiming, Timing, Validation, Verdict
from onnxmpq.report import threads_in_words
from onnxmpq.report.conclusion import USE_IT, Conclusion, Subject

SCORES = OutputQuality("scores", "logits", 40.0, 1.0, 1e-4, 0.001, 1.0)
ONE = Timing(3.041e-3, 1.272e-3, 0.418, 1, 0.409, 0.425, 12)
ALL = Timing(1.9e-3, 1.16e-3, 0.611, 0, 0.60, 0.62, 4)
PLAN = Plan(
    model={"name": "m.onnx", "sha256": "0", "bytes": 4_952_000},
    target="cpu",
    dialect="onnxruntime",
    budgets={"latency": "60%"},
    layers=(),
    activations={},
    measured={"latency_ms": 1.272, "size_bytes": 1_312_000},
    prediction={"latency_ms": 1.3, "original_latency_ms": 3.0, "energy_mj": 2.5},
)
GOOD = Subject(
    PLAN,
    Validation((SCORES,), 21, True, timing=ONE, other_timings=(ALL,)),
    Verdict("good", ()),
    4_952_000,
    1_312_000,
    int8=Validation((replace(SCORES, kl_nats=0.28, top1_agreement=0.7),), 21, True),
    synthetic=False,
    proven=True,
)


def lines(subject: Subject) -> list[str]:
    return [line.in_one() for line in Conclusion.of(subject).lines]


def test_a_budget_that_is_met_by_a_good_model() -> None:
    assert lines(GOOD) == [
        "budget met: latency 41.8% of fp32's (60% asked), 3.041 to 1.272 ms, 1 thread; size 26.5% of fp32's, 4.952 to "
        "1.312 MB; with default threads 61.1% of fp32's, 1.900 to 1.160 ms",
        "quality good: divergence 0.001 nats, 100% same top class on 21 held-out samples; closer to fp32 than plain "
        "int8 (BAD, divergence 0.28 nats)",
        f"next: {USE_IT}",
    ]


def with_plan(**fields: Any) -> Subject:
    return replace(GOOD, plan=replace(PLAN, **fields))


def with_quality(**fields: Any) -> Subject:
    return replace(GOOD, validation=replace(GOOD.validation, **fields))


def plain_int8(kl_nats: float) -> Subject:
    return replace(GOOD, int8=Validation((replace(SCORES, kl_nats=kl_nats),), 21, True))


@dataclass(frozen=True)
class Case:
    """A subject, the line (0 budget, 1 quality, 2 next) and what it says; tone of that line."""

    subject: Subject
    line: int
    said: str
    tone: str


SLOW = replace(ALL, ratio=1.2, ratio_low=1.1, ratio_high=1.3)
MEMORY_MISSED = replace(
    with_plan(met=False, budgets={"latency": "60%", "memory": "50%"}),
    sessions=(Footprint(0.1, 10_000_000, 9_000_000), Footprint(0.1, 8_000_000, 7_000_000)),
)
CASES = {
    "missed": Case(with_plan(met=False), 0, "budget NOT met: this is the closest plan; latency 41.8%", "bad"),
    "missed, next": Case(
        with_plan(met=False, budgets={"latency": "30%", "size": "20%"}), 2, "--latency 43% --size 27%", "doubtful"
    ),
    "only memory missed": Case(MEMORY_MISSED, 0, "(60% asked), 3.041 to 1.272 ms, 1 thread; size", "bad"),
    "only memory missed, which": Case(MEMORY_MISSED, 0, "(50% asked, missed), 10.0 to 8.0 MB", "bad"),
    "only memory missed, next": Case(MEMORY_MISSED, 2, "can be had is --latency 60% --memory 82%", "doubtful"),
    "energy missed": Case(
        with_plan(met=False, budgets={"energy": "2mJ"}, prediction=PLAN.prediction | {"original_energy_mj": 5.0}),
        2,
        "can be had is --energy 51%",
        "doubtful",
    ),
    "nothing faster": Case(
        with_plan(met=False, budgets={"latency": "fastest"}), 2, "what can be had is this plan", "doubtful"
    ),
    "slower": Case(
        replace(with_quality(timing=SLOW), plan=replace(PLAN, budgets={"size": "30%"})),
        2,
        "slower than the original: give --latency 100% as well",
        "doubtful",
    ),
    "labels in doubt": Case(
        with_quality(metric=MetricScores("top-1", 0.1, 0.1, "fp32 itself has 2 of 20 labels right, as by guessing")),
        2,
        "look at the labels: fp32 itself has 2 of 20",
        "doubtful",
    ),
    "bad by what was set": Case(
        replace(with_plan(options={"set": {"*": ["w4"]}, "schemes": ["w4"]}), verdict=Verdict("bad", ("NaN",))),
        2,
        "do not use it: leave out --set and --scheme, give a larger budget",
        "doubtful",
    ),
    "size first": Case(with_plan(budgets={"size": "30%"}), 0, "budget met: size 26.5% of fp32's (30% asked)", "good"),
    "fastest": Case(with_plan(budgets={"latency": "fastest"}), 0, "(fastest asked)", "good"),
    "floor": Case(with_plan(budgets={"size": "30%", "min_sqnr": "30dB"}), 0, "kept: min-sqnr 30dB", "good"),
    "energy": Case(with_plan(budgets={"energy": "3mJ"}), 0, "energy 2.5 mJ, modelled (3mJ asked)", "good"),
    "cost table": Case(
        with_plan(measured={"size_bytes": 1}),
        0,
        "latency 43.3% of fp32's (60% asked), 3 to 1.3 ms by the cost table",
        "good",
    ),
    "all cores": Case(with_quality(timing=ALL, other_timings=(ONE,)), 0, "1.160 ms, default threads; size", "good"),
    "noticeable": Case(
        replace(GOOD, verdict=Verdict("noticeable", ("divergence 0.1 nats", "another"))),
        1,
        "quality noticeable: divergence 0.1 nats (and 1 more)",
        "doubtful",
    ),
    "noticeable, next": Case(replace(GOOD, verdict=Verdict("noticeable", ("r",))), 2, "--labels, --metric", "doubtful"),
    "bad": Case(replace(GOOD, verdict=Verdict("bad", ("NaN in output y",))), 1, "quality BAD: NaN in output y", "bad"),
    "bad, next": Case(replace(GOOD, verdict=Verdict("bad", ("NaN",))), 2, "next: do not use it", "doubtful"),
    "made up": Case(
        replace(GOOD, synthetic=True, verdict=Verdict("unknown", ("made-up samples cannot tell quality",))),
        1,
        "quality unknown: made-up samples cannot tell quality",
        "doubtful",
    ),
    "made up, next": Case(
        replace(GOOD, synthetic=True, verdict=Verdict("unknown", ("r",))),
        2,
        "next: give real samples with --calib to know the quality: these were made up",
        "doubtful",
    ),
    "not held out": Case(with_quality(held_out=False), 2, "give 4 or more with --calib", "doubtful"),
    "further than int8": Case(plain_int8(0.0001), 1, "further from fp32 than plain int8 (good", "good"),
    "as close as int8": Case(plain_int8(0.0011), 1, "as close to fp32 as plain int8", "good"),
    "no int8": Case(replace(GOOD, int8=None), 1, "21 held-out samples", "good"),
    "slower with all cores": Case(
        with_quality(other_timings=(SLOW,)), 2, "slower with default threads: convert with --threads 0", "doubtful"
    ),
    "unsteady": Case(with_quality(timing=replace(ONE, ratio_high=0.6)), 2, "latency is unsteady", "doubtful"),
    "unsteady elsewhere": Case(with_quality(other_timings=(replace(ALL, ratio_high=0.9),)), 0, "ms (unsteady)", "good"),
    "saturates here": Case(replace(GOOD, only_there=True), 2, "on the deployment CPU", "doubtful"),
    "not proven": Case(replace(GOOD, proven=False), 2, "--deploy-cpu any", "doubtful"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_state_is_said(case: Case) -> None:
    line = Conclusion.of(case.subject).lines[case.line]
    assert case.said in line.in_one()
    assert line.tone == case.tone


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("width", [80, 120])
def test_it_is_short_and_coloured_on_a_terminal(case: Case, width: int) -> None:
    held = io.StringIO()
    Conclusion.of(case.subject).draw(Console(file=held, width=width, force_terminal=True, color_system="standard"))
    drawn = held.getvalue()
    assert all(len(line) <= width for line in _without_colours(drawn))
    assert "\x1b[1;3" in drawn
    assert len(_without_colours(drawn)) <= 12


def _without_colours(text: str) -> list[str]:
    parts = text.split("\x1b[")
    return "".join([parts[0], *(part.partition("m")[2] for part in parts[1:])]).splitlines()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_without_a_terminal_there_are_three_lines_that_end_it(case: Case) -> None:
    held = io.StringIO()
    conclusion = Conclusion.of(case.subject)
    conclusion.draw(Console(file=held, width=80))
    assert held.getvalue().splitlines() == [line.in_one() for line in conclusion.lines]


def test_as_data() -> None:
    fields = json.loads(json.dumps(Conclusion.of(GOOD).fields, allow_nan=False))
    assert (
        fields["budget"]["missed"] == []
        and fields["budget"]["met"] is True
        and fields["budget"]["asked"] == {"latency": "60%"}
    )
    assert [(t["threads"], t["budget"]) for t in fields["budget"]["latency"]] == [(1, True), (0, False)]
    assert fields["budget"]["size"] == {"original_bytes": 4_952_000, "result_bytes": 1_312_000}
    quality = fields["quality"]
    assert (quality["level"], quality["made_up"], quality["samples"]) == ("good", False, 21)
    assert quality["int8"] == {"level": "bad", "divergence": 0.28, "agreement": 0.7}
    assert fields["advice"] == [USE_IT]
    assert fields["lines"] == lines(GOOD)


def test_threads_in_words() -> None:
    assert [threads_in_words(n) for n in (0, 1, 4)] == ["default threads", "1 thread", "4 threads"]


def test_phases_of_a_decoder() -> None:
    steps = StepTiming("decode", 1, 96, ONE), StepTiming("prefill", 128, 0, SLOW)
    budget, _, advice = lines(with_quality(steps=steps))
    assert "decode behind 96 tokens: 3.041 to 1.272 ms, 328.8 to 786.2 tokens/s" in budget
    assert "prefill of 128 tokens: 1.900 to 1.160 ms" in budget
    assert "slower in prefill of 128 tokens: convert with --step prefill" in advice
    rows = Conclusion.of(with_quality(steps=steps)).fields["budget"]["steps"]
    assert [(row["step"], row["tokens"], row["before"]) for row in rows] == [("decode", 1, 96), ("prefill", 128, 0)]


def test_a_floor_that_the_samples_cannot_tell_is_the_next_thing_to_do() -> None:
    """21 rows that all agree leave an agreement below 99 % possible; 1000 do not."""
    few, many = (replace(GOOD.validation, outputs=(replace(SCORES, rows=rows),)) for rows in (21, 1000))
    asked = with_plan(budgets={"size": "30%", "min_agreement": "99%"})
    assert "cannot tell" not in Conclusion.of(replace(asked, validation=many)).advice.in_one()
    subject = replace(asked, validation=few)
    advice = Conclusion.of(subject).advice.in_one()
    assert "cannot tell --min-agreement 99%" in advice and USE_IT not in advice
