"""Whether a conversion's quality is good, noticeable or bad, in words. A pure function of a `Validation`.

The limits are calibrated on labelled models: docs/quality.md, "When is a result good?". bad: a metric on labels is
likely to have fallen by more than five points, noticeable: by more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from onnxmpq.comparison import OutputQuality, Validation

Level = Literal["good", "noticeable", "bad", "unknown"]
Found = tuple[Level, str]
_ORDER: tuple[Level, ...] = ("good", "noticeable", "bad")

# Provisional: from digits_cnn, digits_transformer and resnet20_cifar10 alone.
BAD_DIVERGENCE_NATS, NOTICEABLE_DIVERGENCE_NATS = 0.3, 0.05
"""KL from fp32's classes, docs/quality.md."""
BAD_AGREEMENT, NOTICEABLE_AGREEMENT = 0.87, 0.95
"""Share of rows with fp32's top class, docs/quality.md."""
BAD_RELATIVE_ERROR, NOTICEABLE_RELATIVE_ERROR = 0.1, 0.01
"""Squared error over variance, mean over channels, of outputs that are no class scores, docs/quality.md."""
BAD_FALL, NOTICEABLE_FALL = 0.05, 0.01
"""Of a metric on labels: in its own unit, or of its magnitude where that is above 1; docs/quality.md."""
WORSE_THAN_INT8, LEAST_DIVERGENCE = 4.0, 0.02
"""Times the divergence of int8 everywhere that is noticeable, above a divergence that could be noticed at all."""
DEVIATIONS = 1.64
"""Standard errors that a count or a metric must be beyond its limit: 5 % by chance."""


@dataclass(frozen=True)
class Verdict:
    """reasons: for the user, with the limit and the number of samples; empty only where the level is good."""

    level: Level
    reasons: tuple[str, ...]


def judge(quality: Validation, *, int8: Validation | None = None, synthetic: bool = False) -> Verdict:
    """Level of a conversion, the worst of its outputs', with what led to it.

    int8: the quality of int8 everywhere on the same samples, to be compared with. synthetic: the samples are made up.
    """
    if any(not _finite(o) for o in quality.outputs):
        names = ", ".join(o.name for o in quality.outputs if not _finite(o))
        return Verdict("bad", (f"NaN or infinity in output {names} on {_samples(quality)}",))
    if synthetic:
        return Verdict("unknown", ("the samples are made up, which cannot tell quality: give --calib real data",))
    measured, decided = _by_metric(quality)
    if decided:
        return _worst(measured)
    if not quality.outputs and not measured:
        return Verdict("unknown", ("no floating-point output of a fixed shape could be compared with fp32's",))
    found = [*measured, *(f for o in quality.outputs for f in _by_output(o, quality))]
    if int8 is not None:
        found += _by_int8(quality, int8)
    return _worst(found)


def _worst(found: Iterable[Found]) -> Verdict:
    """The worst level, with the reasons that gave it and those of levels between."""
    counted = sorted((f for f in found if f[0] != "good"), key=lambda f: -_ORDER.index(f[0]))
    return Verdict(counted[0][0] if counted else "good", tuple(text for _, text in counted))


def _finite(output: OutputQuality) -> bool:
    numbers = (output.relative_mse, output.cosine, output.kl_nats, output.top1_agreement)
    return all(n is None or math.isfinite(n) for n in numbers) and not math.isnan(output.sqnr_db)


def _samples(quality: Validation) -> str:
    what = "held-out sample" if quality.held_out else "calibration sample"
    return f"{quality.samples} {what}{'' if quality.samples == 1 else 's'}"


def _by_metric(quality: Validation) -> tuple[list[Found], bool]:
    """What a metric on labels says, and whether its own sampling error is small enough to decide alone."""
    metric = quality.metric
    if metric is None:
        return [], False
    if not math.isfinite(metric.result) or not math.isfinite(metric.original):
        return [("bad", f"{metric.name} is {metric.result} on {_samples(quality)}")], True
    scale = max(1.0, abs(metric.original))
    fall, count = (metric.original - metric.result) / scale, max(quality.samples, 1)
    least = DEVIATIONS**2 / count  # below it, fall < DEVIATIONS * sqrt(fall / count): chance
    for level, limit in (("bad", BAD_FALL), ("noticeable", NOTICEABLE_FALL)):
        if fall > max(limit, least):
            text = f"{metric.name} fell from {metric.original:.4g} to {metric.result:.4g} on {_samples(quality)}"
            return [(level, f"{text} ({level} beyond {limit * scale:.3g})")], True  # type: ignore[list-item]
    changed = min(max(1.0 - (quality.agreement or 0.0), fall, 0.0), 1.0)  # others cannot have changed the metric
    return [], fall + DEVIATIONS * math.sqrt(changed / count) <= BAD_FALL


def _by_output(output: OutputQuality, quality: Validation) -> Iterator[Found]:
    """Each figure of one output that is beyond a limit."""
    where = f"of output {output.name} on {_samples(quality)}"
    if output.kl_nats is None or output.top1_agreement is None:
        limits = (BAD_RELATIVE_ERROR, NOTICEABLE_RELATIVE_ERROR)
        if level := _above(output.relative_mse, *limits):
            limit = limits[level == "noticeable"]
            text = f"relative error {output.relative_mse:.3g} ({output.sqnr_db:.1f} dB)"
            yield level, f"{text} {where} ({level} above {limit:g})"
        return
    if level := _above(output.kl_nats, BAD_DIVERGENCE_NATS, NOTICEABLE_DIVERGENCE_NATS):
        limit = BAD_DIVERGENCE_NATS if level == "bad" else NOTICEABLE_DIVERGENCE_NATS
        yield level, f"divergence {output.kl_nats:.3g} nats {where} ({level} above {limit:g})"
    for level, limit in (("bad", BAD_AGREEMENT), ("noticeable", NOTICEABLE_AGREEMENT)):
        least = limit - DEVIATIONS * math.sqrt(limit * (1.0 - limit) / max(quality.samples, 1))
        if output.top1_agreement < least:
            text = f"top-1 agreement {output.top1_agreement:.0%} {where} ({level} below {limit:.0%}"
            yield level, f"{text}, by chance above {least:.0%})"  # type: ignore[misc]
            return


def _above(value: float, bad: float, noticeable: float) -> Level | None:
    return "bad" if value > bad else "noticeable" if value > noticeable else None


def _by_int8(quality: Validation, int8: Validation) -> Iterator[Found]:
    """A plan that may leave layers in float32 should not diverge more than int8 everywhere."""
    limit = max(WORSE_THAN_INT8 * int8.divergence, LEAST_DIVERGENCE)
    if quality.divergence > limit:
        text = f"divergence {quality.divergence:.3g} on {_samples(quality)}, int8 everywhere {int8.divergence:.3g}"
        yield "noticeable", f"{text} (noticeable above {limit:.3g})"
