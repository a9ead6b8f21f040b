"""Verdict: a conversion's quality is good, noticeable or bad, in words. A pure function of a `Validation`.

The limits are calibrated on labelled models (docs/quality.md, "When is a result good?"; benchmarks/guard_limits.py).
bad: a metric on labels is likely to have fallen by more than five points; noticeable: by more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from onnxmpq.quality.comparison import LABELS, MetricScores, OutputQuality, Validation

Level = Literal["good", "noticeable", "bad", "unknown"]
Found = tuple[Level, str]
_ORDER: tuple[Level, ...] = ("good", "noticeable", "bad")


@dataclass(frozen=True)
class Limits:
    """Where a figure of quality stops being good, and where it becomes bad."""

    noticeable: float
    bad: float

    def worst(self, beyond: Callable[[float], bool]) -> Iterator[tuple[Level, float]]:
        """The worse of the two levels whose limit the figure is beyond, with the limit; nothing where it is good."""
        if beyond(self.bad):
            yield "bad", self.bad
        elif beyond(self.noticeable):
            yield "noticeable", self.noticeable


DIVERGENCE_NATS = Limits(0.04, 0.2)
"""Most KL from fp32's classes (docs/quality.md)."""
AGREEMENT = Limits(0.9, 0.7)
"""Least share of rows with fp32's top class, beyond sampling error (docs/quality.md). KL sees most losses first."""
UNMOVED_AGREEMENT = 0.975
"""Five points of accuracy need five rows of a hundred to change class. Where fewer than half as many did, a large KL is
a matter of confidence and no worse than noticeable (docs/quality.md)."""
RELATIVE_ERROR = Limits(0.02, 0.15)
"""Most squared error over variance, mean over channels, of outputs that are not class scores (docs/quality.md)."""
FALL = Limits(0.01, 0.05)
"""Most that a metric may fall: in its own unit, or relative to its magnitude where that is above 1."""
WORSE_THAN_INT8 = 4.0
"""Divergence in multiples of that of int8 everywhere above which a plan is noticeably worse (docs/quality.md)."""
WORTH_COMPARING = 0.5
"""Share of the absolute limit below which nobody would notice that int8 everywhere is better."""
DEVIATIONS = 1.64
"""Standard errors that agreement or a metric must be beyond a limit: 5 % by chance, one-sided."""


@dataclass(frozen=True)
class Verdict:
    """reasons: for the user, with the limit and the number of samples; empty only where the level is good."""

    level: Level
    reasons: tuple[str, ...]


def judge(quality: Validation, *, int8: Validation | None = None, synthetic: bool = False) -> Verdict:
    """Level of a conversion, the worst of its outputs', and why.

    int8: quality of int8 everywhere on the same samples, for comparison. synthetic: True where the samples are made up.
    """
    broken = [o.name for o in quality.outputs if not _finite(o)]
    if broken:
        return Verdict("bad", (f"NaN or infinity in output {', '.join(broken)} on {_samples(quality)}",))
    if synthetic:
        return Verdict("unknown", ("made-up samples cannot tell quality; give real ones with --calib",))
    found = list(_by_metric(quality))
    if not found and not quality.outputs and _most_fall(quality) > FALL.bad:
        return Verdict("unknown", (_nothing_to_compare(quality),))
    base = {} if int8 is None else {o.name: o for o in int8.deciding}
    for output in quality.deciding:
        found += _not_ruled_out(_by_output(output, quality), quality)
        if output.name in base:
            found += _not_ruled_out(_by_int8(output, base[output.name], quality), quality)
    return _worst(found)


def _worst(found: Iterable[Found]) -> Verdict:
    """The worst level, and all reasons, those for the worst level first."""
    ordered = sorted(found, key=lambda f: -_ORDER.index(f[0]))
    return Verdict(ordered[0][0] if ordered else "good", tuple(text for _, text in ordered))


def _finite(output: OutputQuality) -> bool:
    numbers = (output.relative_mse, output.cosine, output.kl_nats, output.top1_agreement)
    return all(n is None or math.isfinite(n) for n in numbers) and not math.isnan(output.sqnr_db)


def _samples(quality: Validation) -> str:
    what = {True: "held-out sample", False: "calibration sample", None: "sample"}[quality.held_out]
    return f"{quality.samples} {what}{'' if quality.samples == 1 else 's'}"


def _nothing_to_compare(quality: Validation) -> str:
    text = "no floating-point output of a fixed shape that could be compared with fp32's"
    if quality.metric is None:
        return text
    return f"{text}, and {_samples(quality)} are too few for {quality.metric.name} to tell"


def _by_metric(quality: Validation) -> Iterator[Found]:
    """A fall of the metric beyond a limit and beyond its sampling error.

    The error is that of a count of samples that only fp32 gets right: sqrt(fall / samples). So on 21 samples it takes
    three of them.
    """
    metric = quality.metric
    if metric is None:
        return
    if not (math.isfinite(metric.result) and math.isfinite(metric.original)):
        yield "bad", f"{metric.name} is {metric.result:g}, {metric.original:g} before, on {_samples(quality)}"
        return
    scale, fall = _scaled_fall(metric)
    chance = DEVIATIONS**2 / max(quality.samples, 1)
    for level, limit in FALL.worst(lambda most: fall > max(most, chance)):
        text = f"{metric.name} fell from {metric.original:.4g} to {metric.result:.4g} on {_samples(quality)}"
        yield level, f"{text} ({level} beyond {limit * scale:.3g})"


def _most_fall(quality: Validation) -> float:
    """The possible fall of the metric, with its sampling error, in the unit of `FALL`; infinity without a metric.

    Rows that kept their class cannot have changed the metric, so its error is that of the others, and of one more.
    """
    if quality.metric is None or math.isnan(fall := _scaled_fall(quality.metric)[1]):
        return math.inf
    count = max(quality.samples, 1)
    changed = min(max(1.0 - (quality.agreement or 0.0), fall, 0.0) + 1.0 / count, 1.0)
    return fall + DEVIATIONS * math.sqrt(changed / count)


def _not_ruled_out(found: Iterable[Found], quality: Validation) -> Iterator[Found]:
    """The verdict of an output, but no worse than the metric may have fallen."""
    most = _most_fall(quality)
    for level, text in found:
        if level == "bad" and most <= FALL.bad and quality.metric is not None:
            level, text = "noticeable", f"{text}, but {quality.metric.name} fell less"
        if most > FALL.noticeable:
            yield level, text


def _scaled_fall(metric: MetricScores) -> tuple[float, float]:
    """The unit of `FALL` for a metric of this magnitude, and its fall in that unit."""
    scale = max(1.0, abs(metric.original))
    return scale, (metric.original - metric.result) / scale


def _by_output(output: OutputQuality, quality: Validation) -> Iterator[Found]:
    """Each figure of one output that is beyond a limit."""
    where, kl, agreement = f"of {_named(output)} on {_samples(quality)}", output.kl_nats, output.top1_agreement
    if output.kind == LABELS and agreement is not None:
        yield from _by_labels(agreement, where, quality)
        return
    if kl is None or agreement is None:
        for level, limit in RELATIVE_ERROR.worst(lambda most: output.relative_mse > most):
            text = f"relative error {output.relative_mse:.3g} (SQNR {output.sqnr_db:.1f} dB)"
            yield level, f"{text} {where} ({level} above {limit:g})"
        return
    limits = Limits(DIVERGENCE_NATS.noticeable, math.inf) if agreement > UNMOVED_AGREEMENT else DIVERGENCE_NATS
    for level, limit in limits.worst(lambda most: kl > most):
        yield level, f"divergence {kl:.3g} nats {where} ({level} above {limit:g})"
    for level, limit in AGREEMENT.worst(lambda least: agreement < least - _error(least, quality)):
        error = f"sampling error {_error(limit, quality):.0%}"
        yield level, f"top-1 agreement {agreement:.0%} {where} ({level} below {limit:.0%}, {error})"


def _named(output: OutputQuality) -> str:
    """An output in a sentence; models often call it just that."""
    return "the output" if output.name == "output" else f"output {output.name}"


def _by_labels(agreement: float, where: str, quality: Validation) -> Iterator[Found]:
    """Integers, of which as many must be equal as classes of a classifier."""
    for level, limit in AGREEMENT.worst(lambda least: agreement < least - _error(least, quality)):
        yield level, f"{agreement:.0%} of the values {where} are equal ({level} below {limit:.0%})"


def _error(share: float, quality: Validation) -> float:
    """One-sided sampling error of a share of the samples."""
    return DEVIATIONS * math.sqrt(share * (1.0 - share) / max(quality.samples, 1))


def _by_int8(output: OutputQuality, base: OutputQuality, quality: Validation) -> Iterator[Found]:
    """A plan that may leave layers in float32 should not lose much more than int8 everywhere."""
    if output.kind == LABELS:
        return
    classes = output.kl_nats is not None and base.kl_nats is not None
    mine, other = (o.kl_nats if classes and o.kl_nats is not None else o.relative_mse for o in (output, base))
    least = WORTH_COMPARING * (DIVERGENCE_NATS if classes else RELATIVE_ERROR).noticeable
    limit = max(WORSE_THAN_INT8 * other, least)
    if mine > limit:
        text = f"divergence {mine:.3g} of {_named(output)} on {_samples(quality)}, int8 everywhere {other:.3g}"
        yield "noticeable", f"{text} (noticeable above {limit:.3g})"
