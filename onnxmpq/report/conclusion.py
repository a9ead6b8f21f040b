"""Conclusion of a conversion, as the last lines on the screen and as fields of the JSON report.

Three questions: is the budget met, by what was measured; is the quality good, also beside plain int8; what to do now.
A pure function of plan, measurements and verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxmpq.allocate import LATENCY, MEMORY, QUANTITIES, SIZE, parse_budgets, parse_memory
from onnxmpq.plan import Plan, narrowing
from onnxmpq.profiling import Footprint
from onnxmpq.quality import TOP1, Level, OutputQuality, Timing, Validation, Verdict, judge, parse_floors, unresolved
from onnxmpq.trials import OWN_THREADS

Tone = Literal["good", "doubtful", "bad"]
TONES: Mapping[Level, Tone] = {"good": "good", "noticeable": "doubtful", "bad": "bad", "unknown": "doubtful"}
WORDS: Mapping[Level, str] = {"good": "good", "noticeable": "noticeable", "bad": "BAD", "unknown": "unknown"}
STYLES: Mapping[Tone, str] = {"good": "green", "doubtful": "yellow", "bad": "red"}
CLOSE = 1.5
"""Factor between two divergences up to which they are called equal."""
USE_IT = "use it in place of the original"
UNSTEADY = "latency is unsteady: close other programs, measure again with `onnxmpq validate`"
ROOM = 1.02  # of a budget that is proposed, above what was measured


@dataclass(frozen=True)
class Line:
    """One of the last lines. title: its question and the answer in a word. parts: what is known about it, short, the
    most important first."""

    title: str
    parts: tuple[str, ...]
    tone: Tone

    def in_one(self) -> str:
        """As a single line, for files and pipes."""
        return f"{self.title}: {'; '.join(self.parts)}"


@dataclass(frozen=True)
class Subject:
    """All that a conclusion follows from.

    original_bytes, result_bytes: sizes of the files. int8: quality of int8 in every layer on the same samples, None
    where it is not offered or does not run. proven: int8 is exact on the deployment CPU.
    only_there: and may saturate on the machine at hand.
    """

    plan: Plan
    validation: Validation
    verdict: Verdict
    original_bytes: int
    result_bytes: int
    int8: Validation | None
    synthetic: bool
    proven: bool
    sessions: tuple[Footprint, Footprint] | None = None
    only_there: bool = False

    @property
    def missed(self) -> frozenset[str]:
        """Limits that were asked for and are not held, by what was measured."""
        return _missed(self) if not self.plan.met else frozenset()

    @property
    def floors(self) -> dict[str, str]:
        """Quality floors that were asked for, which a plan that is handed out keeps."""
        return {name: text for name, text in self.plan.budgets.items() if name not in (*QUANTITIES, MEMORY)}


@dataclass(frozen=True)
class Conclusion:
    """budget, quality, advice: the last lines, in this order. fields: the same as data, ready for JSON."""

    budget: Line
    quality: Line
    advice: Line
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, subject: Subject) -> Conclusion:
        met = subject.plan.met
        budget = Line(f"budget {'met' if met else 'NOT met'}", tuple(_budget(subject)), "good" if met else "bad")
        level = subject.verdict.level
        quality = Line(f"quality {WORDS[level]}", tuple(_quality(subject)), TONES[level])
        steps = tuple(_advice(subject))
        advice = Line("next", steps or (USE_IT,), "doubtful" if steps else "good")
        return cls(budget, quality, advice, _fields(subject, (budget, quality, advice)))

    @property
    def lines(self) -> tuple[Line, ...]:
        return self.budget, self.quality, self.advice

    def draw(self, console: Console) -> None:
        """The last lines: on a terminal coloured, the parts of each below each other; else a line each."""
        if not console.is_terminal:
            for line in self.lines:
                console.print(line.in_one(), highlight=False, markup=False, soft_wrap=True)
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for line in self.lines:
            style = STYLES[line.tone]
            for title, part in zip((line.title, *[""] * len(line.parts)), line.parts, strict=False):
                grid.add_row(Text(title, style=f"bold {style}"), Text(part, style=style if title else ""))
        console.print(grid)


def threads_in_words(threads: int) -> str:
    """Threads of a session; 0 is a session that is given no number, and has one per core."""
    if threads == OWN_THREADS:
        return "default threads"
    return "1 thread" if threads == 1 else f"{threads} threads"


# ---- budget ---------------------------------------------------------------------------------------


def _budget(subject: Subject) -> Iterator[str]:
    """Limits and what was measured, those that were asked for first."""
    plan, validation = subject.plan, subject.validation
    if not plan.met:
        yield "this is the closest plan"
    rows = {LATENCY: _latency(subject), SIZE: _size(subject)}
    rows |= {name: _modelled(subject, name) for name, q in QUANTITIES.items() if q.modelled and name in plan.budgets}
    for name in sorted(rows, key=lambda n: n not in plan.budgets):
        if rows[name]:
            yield rows[name]
    if MEMORY in plan.budgets and (taken := _memory(subject)):
        yield taken
    for other in validation.other_timings:
        unsteady = " (unsteady)" if other.unsteady else ""
        yield f"with {threads_in_words(other.threads)} {_share(other.ratio)}, {_milliseconds(other)}{unsteady}"
    for step in validation.steps:
        before, after = step.tokens_per_s
        yield f"{step.in_words()}: {_milliseconds(step.timing)}, {before:.1f} to {after:.1f} tokens/s"
    if subject.floors:
        kept = ", ".join(f"{name.replace('_', '-')} {text}" for name, text in subject.floors.items())
        yield f"kept: {kept}"


def _latency(subject: Subject) -> str:
    """Of the budget's number of threads: measured, by the cost table, or "" where nothing is known of it."""
    plan, timing = subject.plan, subject.validation.timing
    if timing is not None and "latency_ms" in plan.measured:
        with_threads = threads_in_words(timing.threads)
        return f"latency {_share(timing.ratio)}{_asked(subject, LATENCY)}, {_milliseconds(timing)}, {with_threads}"
    if LATENCY not in plan.budgets:
        return ""
    before, after = (plan.prediction[f"{whose}latency_ms"] for whose in ("original_", ""))
    asked = _asked(subject, LATENCY)
    return f"latency {_share(after / before)}{asked}, {before:.3g} to {after:.3g} ms by the cost table"


def _size(subject: Subject) -> str:
    before, after = subject.original_bytes, subject.result_bytes
    sizes = f"{before / 1e6:.3f} to {after / 1e6:.3f} MB"
    return f"size {_share(after / before)}{_asked(subject, SIZE)}, {sizes}"


def _memory(subject: Subject) -> str:
    """Of a session with one run; "" where it is not known."""
    before, after = (None, None) if subject.sessions is None else (s.peak_bytes for s in subject.sessions)
    if not before or after is None:
        return ""
    asked = _asked(subject, MEMORY)
    return (
        f"memory {_share(after / before)}{asked}, {before / 1e6:.1f} to {after / 1e6:.1f} MB in a session with one run"
    )


def _modelled(subject: Subject, name: str) -> str:
    plan, quantity = subject.plan, QUANTITIES[name]
    taken = plan.prediction.get(quantity.figure)
    if taken is None:
        return ""
    return f"{name} {quantity.unit.show(taken / quantity.per_unit)}, modelled{_asked(subject, name)}"


def _share(ratio: float) -> str:
    return f"{ratio * 100:.1f}% of fp32's"


def _milliseconds(timing: Timing) -> str:
    return f"{timing.original_s * 1e3:.3f} to {timing.result_s * 1e3:.3f} ms"


def _asked(subject: Subject, name: str) -> str:
    asked = subject.plan.budgets
    return f" ({asked[name]} asked{', missed' if name in subject.missed else ''})" if name in asked else ""


def _missed(subject: Subject) -> frozenset[str]:
    asked = subject.plan.budgets
    limits = dict(parse_budgets(**{name: asked.get(name) for name in QUANTITIES}).limits)
    if (memory := parse_memory(asked.get(MEMORY))) is not None:
        limits[MEMORY] = memory
    taken = _taken(subject)
    return frozenset(n for n, limit in limits.items() if n in taken and taken[n][1] > limit.of(taken[n][0]))


def _taken(subject: Subject) -> dict[str, tuple[float, float]]:
    """Taken by the original and by the result, by quantity, in the unit of limits; without what is not known."""
    found: dict[str, tuple[float, float]] = {SIZE: (subject.original_bytes, subject.result_bytes)}
    if (timing := subject.validation.timing) is not None:
        found[LATENCY] = timing.original_s, timing.result_s
    before, after = (None, None) if subject.sessions is None else (s.peak_bytes for s in subject.sessions)
    if before and after is not None:
        found[MEMORY] = before, after
    figures = subject.plan.prediction
    for name, quantity in QUANTITIES.items():
        if quantity.modelled and f"original_{quantity.figure}" in figures:
            one, two = (figures[f"{whose}{quantity.figure}"] / quantity.per_unit for whose in ("original_", ""))
            found[name] = one, two
    return found


# ---- quality --------------------------------------------------------------------------------------


def _quality(subject: Subject) -> Iterator[str]:
    verdict, validation = subject.verdict, subject.validation
    first, *others = verdict.reasons or (_figures(validation),)
    yield f"{first}{f' (and {len(others)} more)' if others else ''}"
    if (beside := _beside_int8(subject)) is not None:
        yield beside


def _figures(validation: Validation) -> str:
    """The most telling figures of the worst output, and the samples they are from."""
    where = f"{validation.samples} {'held-out' if validation.held_out else 'calibration'} samples"
    figures = []
    if (metric := validation.metric) is not None:
        figures.append(f"{metric.name} {metric.original:.4g} to {metric.result:.4g}")
    if (worst := _worst(validation)) is not None:
        figures.append(_divergence(worst))
    if (agreement := validation.agreement) is not None:
        figures.append(f"{agreement:.0%} same top class")
    return f"{', '.join(figures) or 'no loss to be noticed'} on {where}"


def _worst(validation: Validation) -> OutputQuality | None:
    return max(validation.deciding, key=_loss, default=None)


def _loss(output: OutputQuality) -> float:
    """The figure that an output's quality is judged by."""
    return output.relative_mse if output.kl_nats is None else output.kl_nats


def _divergence(output: OutputQuality) -> str:
    if output.kl_nats is not None:
        return f"divergence {output.kl_nats:.3g} nats"
    return f"relative error {output.relative_mse:.3g}"


def _beside_int8(subject: Subject) -> str | None:
    """The plan beside plain int8 by the worst output of each."""
    if subject.int8 is None or subject.synthetic:
        return None
    mine, other = _worst(subject.validation), _worst(subject.int8)
    if mine is None or other is None:
        return None
    level = WORDS[judge(subject.int8).level]
    one, two = _loss(mine), _loss(other)
    if one * CLOSE < two:
        words = "closer to fp32 than plain int8"
    elif two * CLOSE < one:
        words = "further from fp32 than plain int8"
    else:
        words = "as close to fp32 as plain int8"
    return f"{words} ({level}, {_divergence(other)})"


# ---- advice ---------------------------------------------------------------------------------------


def _advice(subject: Subject) -> Iterator[str]:
    """Steps to take: one thing for each question that is open; nothing where it can be used."""
    plan, timing, level = subject.plan, subject.validation.timing, subject.verdict.level
    yield from on_quality(level, synthetic=subject.synthetic, narrowed=narrowing(plan.options))
    yield from _on_floors(subject)
    if not plan.met:
        yield f"what can be had is {_what_fits(subject)}"
    elif LATENCY not in plan.budgets and timing is not None and timing.ratio_low > 1.0:
        yield "slower than the original: give --latency 100% as well, or a larger budget"
    if not subject.proven:
        yield "int8 may be wrong on the deployment CPU: convert with --deploy-cpu any"
    if subject.only_there:
        yield f"use it on the deployment CPU ({plan.deploy_cpu}) only: int8 kernels of this machine saturate"
    yield from _on_threads(subject)
    yield from _on_steps(subject)
    if timing is not None and timing.unsteady:
        yield UNSTEADY
    if level == "good" and not subject.validation.held_out:
        yield "quality is that of the calibration samples: give 4 or more with --calib"


def on_quality(level: str, *, synthetic: bool, narrowed: Sequence[str] = ()) -> Iterator[str]:
    """Steps that a verdict asks for; nothing where it is good. synthetic: the samples were made up. narrowed: options
    that took schemes or techniques from the choice."""
    if synthetic:
        yield "give real samples with --calib to know the quality: these were made up"
        return
    match level:
        case "bad":
            without = f"leave out {' and '.join(narrowed)}, " if narrowed else ""
            floor = "or a floor such as --min-agreement 95% or --min-sqnr 20dB"
            yield f"do not use it: {without}give a larger budget, {floor}"
        case "noticeable":
            yield "try it on your own metric (--labels, --metric); a larger budget or a floor loses less"
        case "unknown":
            yield "check it on your own metric (--labels, --metric)"


def _on_floors(subject: Subject) -> Iterator[str]:
    """Floors that were kept on too few samples to tell, or by labels that the original itself does not fit."""
    found = subject.validation
    if found.metric is not None and found.metric.doubt:
        yield f"look at the labels: {found.metric.doubt}"
    rows = min((o.rows for o in found.deciding if o.rows), default=None)
    shares = found.metric is not None and found.metric.name == TOP1
    yield from unresolved(parse_floors(**subject.floors), found.samples, rows, shares=shares)


def _on_threads(subject: Subject) -> Iterator[str]:
    """Sessions with other threads than the budget's, for which the result is no faster though it is for those."""
    timing = subject.validation.timing
    if timing is None or timing.ratio_high >= 1.0:
        return
    for other in subject.validation.other_timings:
        if other.ratio_low > 1.0:
            option = "0" if other.threads == OWN_THREADS else f"{other.threads}"
            yield f"slower with {threads_in_words(other.threads)}: convert with --threads {option} for such sessions"


def _on_steps(subject: Subject) -> Iterator[str]:
    """Phases of a decoder in which the result is slower though it is faster in the other."""
    steps = subject.validation.steps
    for step in steps:
        if step.timing.ratio_low > 1.0 and any(other.timing.ratio_high < 1.0 for other in steps):
            yield f"slower in {step.in_words()}: convert with --step {step.step} where that counts more"


def _what_fits(subject: Subject) -> str:
    """The limits that were asked for, those that were missed raised to what was measured."""
    asked = {n: text for n, text in subject.plan.budgets.items() if n in (*QUANTITIES, MEMORY)}
    taken = _taken(subject)
    for name in subject.missed:
        before, after = taken[name]
        asked[name] = f"{after / before * ROOM * 100:.0f}%"
    return " ".join(f"--{name} {text}" for name, text in asked.items()) if subject.missed else "this plan"


# ---- fields ---------------------------------------------------------------------------------------


def _fields(subject: Subject, lines: tuple[Line, ...]) -> dict[str, Any]:
    """For JSON. `threads` 0 is a session's default; `budget` names the timing that the latency budget is about."""
    plan, validation = subject.plan, subject.validation
    timings = [t for t in (validation.timing, *validation.other_timings) if t is not None]
    return {
        "budget": {
            "met": plan.met,
            "asked": {name: text for name, text in plan.budgets.items() if name in (*QUANTITIES, MEMORY)},
            "missed": sorted(subject.missed),
            "floors": subject.floors,
            "size": {"original_bytes": subject.original_bytes, "result_bytes": subject.result_bytes},
            "latency": [{**t.figures(), "budget": t is validation.timing} for t in timings],
            "steps": [step.figures() for step in validation.steps],
        },
        "quality": {
            "level": subject.verdict.level,
            "reasons": list(subject.verdict.reasons),
            "samples": validation.samples,
            "held_out": validation.held_out,
            "made_up": subject.synthetic,
            "divergence": validation.divergence,
            "agreement": validation.agreement,
            "int8": None if subject.int8 is None else _int8(subject.int8),
        },
        "advice": list(lines[-1].parts),
        "lines": [line.in_one() for line in lines],
    }


def _int8(quality: Validation) -> dict[str, Any]:
    """Plain int8 on the same samples."""
    level = judge(quality).level
    return {"level": level, "divergence": quality.divergence, "agreement": quality.agreement}
