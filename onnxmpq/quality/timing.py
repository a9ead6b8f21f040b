"""Latency of two models side by side: rounds, interval, and phases of decoders."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.cost import Effort, interleaved_s
from onnxmpq.feeds import STEPS, Array, Feeds, Step, Timed
from onnxmpq.intervals import median_interval
from onnxmpq.isolation import keep, patience_s
from onnxmpq.measuring import movable, timed
from onnxmpq.progress import Tick
from onnxmpq.runtimes import Call, Session, SessionSettings, absolute, open_session, run, stays_in_files

_DOING = "timing the converted model"
MOST_PASSES = 5  # of a measurement that cannot tell on which side of a limit a model is, or that is unsteady
Float = NDArray[np.float64]
UNSTEADY = 0.1  # width of the confidence interval, as a share of the ratio: on a quiet machine it is 0.01 to 0.03


@dataclass(frozen=True)
class Timing:
    """Side by side, interleaved, in seconds. original_s: median over rounds of the fastest run of each round.

    result_s: that times the ratio, in which other work on the machine counts for less.
    threads: of both sessions; 0 is the default of a session that is given no number.
    ratio: median over rounds of result over original. ratio_low, ratio_high: 95 % confidence interval of that median.
    """

    original_s: float
    result_s: float
    ratio: float
    threads: int
    ratio_low: float
    ratio_high: float
    rounds: int

    @classmethod
    def of(cls, original: Float, result: Float, threads: int) -> Timing:
        """original, result: float64 [rounds], seconds."""
        ratios = result / original
        low, high = median_interval(ratios)
        original_s, ratio = float(np.median(original)), float(np.median(ratios))
        return cls(original_s, ratio * original_s, ratio, threads, low, high, len(ratios))

    @classmethod
    def mean(cls, parts: Sequence[tuple[float, Timing]]) -> Timing:
        """Of runs of several shapes, by the share of each. The interval is as wide as all parts' at once."""
        if len(parts) == 1:
            return parts[0][1]
        before, after, low, high = (
            sum(share * seconds for share, seconds in row)
            for row in (
                [(share, t.original_s) for share, t in parts],
                [(share, t.ratio * t.original_s) for share, t in parts],
                [(share, t.ratio_low * t.original_s) for share, t in parts],
                [(share, t.ratio_high * t.original_s) for share, t in parts],
            )
        )
        threads, rounds = parts[0][1].threads, min(t.rounds for _, t in parts)
        return cls(before, after, after / before, threads, low / before, high / before, rounds)

    def in_time_of(self, original_s: float) -> Timing:
        """The same ratios, in seconds of a machine on which the original takes so long."""
        return replace(self, original_s=original_s, result_s=self.ratio * original_s)

    def figures(self) -> dict[str, Any]:
        """JSON-ready, in milliseconds."""
        return {
            "threads": self.threads,
            "original_ms": self.original_s * 1e3,
            "result_ms": self.result_s * 1e3,
            "ratio": self.ratio,
            "ratio_low": self.ratio_low,
            "ratio_high": self.ratio_high,
        }

    @property
    def unsteady(self) -> bool:
        """True if the ratio is known too badly to be relied on, as where other processes keep the machine busy."""
        return self.ratio_high - self.ratio_low > UNSTEADY * self.ratio

    def decides(self, limit: float) -> bool:
        """True if a limit of the ratio lies outside the confidence interval."""
        return not self.ratio_low <= limit <= self.ratio_high


@dataclass(frozen=True)
class StepTiming:
    """Timing of a decoder's phase. tokens: new ones in a run. before: tokens in the cache."""

    step: Step
    tokens: int
    before: int
    timing: Timing

    @property
    def tokens_per_s(self) -> tuple[float, float]:
        """Of the original and of the result."""
        return self.tokens / self.timing.original_s, self.tokens / self.timing.result_s

    def in_words(self) -> str:
        """The phase: such as "decode behind 96 tokens", "prefill of 128 tokens"."""
        after = f" behind {self.before}" if self.before else ""
        return (
            f"decode{after or ' behind 0'} tokens"
            if self.step == "decode"
            else f"prefill of {self.tokens} tokens{after}"
        )

    def figures(self) -> dict[str, Any]:
        """JSON-ready."""
        rates = dict(zip(("original_tokens_per_s", "result_tokens_per_s"), self.tokens_per_s, strict=True))
        return {"step": self.step, "tokens": self.tokens, "before": self.before, **self.timing.figures(), **rates}


def time_side_by_side(
    original: Any,
    result: Any,
    feeds: Feeds | Timed,
    settings: SessionSettings,
    effort: Effort,
    limit: float | None = None,
    passes: int = MOST_PASSES,
    tick: Tick = lambda _: None,
) -> Timing:
    """Timing of two models, by the share of each shape. As `time_on_typical`; limit: only where there is one shape."""
    parts = Timed.of(feeds).parts
    limit = limit if len(parts) == 1 else None
    return Timing.mean(
        [(share, time_on_typical(original, result, f, settings, effort, limit, passes, tick)) for share, f in parts]
    )


def time_steps(
    original: Any, result: Any, feeds: Feeds, settings: SessionSettings, effort: Effort, known: Timing | None
) -> tuple[StepTiming, ...]:
    """Timing of each phase of a decoder, on its typical sample; empty for other models.

    known: of the phase that `feeds` are timed in; None to measure it too.
    """
    found = []
    for step in (s for s in STEPS if s in feeds.steps):
        chosen = replace(feeds, step=step)
        timing = known if step == feeds.step else None
        if timing is None:
            timing = time_side_by_side(original, result, chosen, settings, effort, passes=1)
        run = feeds.runs[chosen.typical]
        found.append(StepTiming(step, run.tokens, run.before, timing))
    return tuple(found)


def time_on_typical(
    original: Any,
    result: Any,
    feeds: Feeds,
    settings: SessionSettings,
    effort: Effort,
    limit: float | None,
    passes: int,
    tick: Tick,
) -> Timing:
    """Interleaved timing of two models on the typical sample, where time is taken. Raises ModelError, CrashError.

    Two sessions of models that are never whole in memory would be too much for it: they take turns pass by pass.

    limit: of the ratio. Measured until the confidence interval is narrow and on one side of it, at most `passes` times
    as long. tick: gets passes done.
    """
    start, inputs = time.perf_counter(), feeds.batch([feeds.typical])
    models = [movable(absolute(model)) for model in (original, result)]
    sessions = [keep(open_session, model, settings) for model in models]
    timed(run, sessions[0], inputs, doing="running the original")
    limit_s = patience_s(effort.seconds + effort.runs * (time.perf_counter() - start))
    apart = stays_in_files(models[0])
    if apart:
        sessions.clear()
    rounds, timing = np.zeros((2, 0)), None
    for _ in range(passes):
        if apart:
            more = np.array([timed(_alone, m, settings, inputs, effort, doing=_DOING, limit_s=limit_s) for m in models])
        else:
            more = timed(_side_by_side, *sessions, inputs, effort, doing=_DOING, limit_s=limit_s)
        rounds = np.concatenate([rounds, more], axis=1)
        timing = Timing.of(rounds[0], rounds[1], settings.threads)
        tick(1)
        if not timing.unsteady and (limit is None or timing.decides(limit)):
            break
    assert timing is not None
    return timing


def _alone(model: Any, settings: SessionSettings, inputs: dict[str, Array], effort: Effort) -> Float:
    """Seconds of a model that is opened for it, float64 [rounds]."""
    return np.array(interleaved_s([Call.of(open_session(model, settings), inputs)], effort)[0])


def _side_by_side(before: Session, after: Session, inputs: dict[str, Array], effort: Effort) -> Float:
    """Seconds, float64 [2, rounds]."""
    return np.array(interleaved_s([Call.of(before, inputs), Call.of(after, inputs)], effort))
