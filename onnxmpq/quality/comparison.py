"""Compare two models on the same samples: quality of the outputs, and latency side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.errors import ValidationError
from onnxmpq.execution import runs_of
from onnxmpq.feeds import Array, Feeds
from onnxmpq.isolation import Kept, call, keep, kept, patience_s
from onnxmpq.quality.timing import StepTiming, Timing
from onnxmpq.runtimes import Session, SessionSettings, absolute, holds_fp8, open_session, outputs_on, runs_unfused
from onnxmpq.sensitivity import (
    OUTPUT_KINDS,
    OutputKind,
    by_channels,
    channel_axis,
    class_scores,
    floored,
    guess_kind,
    kl_divergence,
)
from onnxmpq.shown import Shown

_SHOWN = 6  # outputs of a repr
DISAGREEMENT_DB = 3.0  # a larger difference of SQNR between optimisation levels is reported
EMULATED = (
    "the model has fp8: quality was computed on the CPU with Q/DQ kept as they are (session entry "
    "session.disable_quant_qdq=1, optimizers ReluQuantRewrite and ClipQuantRewrite off), which is emulation, so no "
    "time was taken"
)
Float = NDArray[np.float64]
LABELS = "labels"
"""Kind of outputs that are integers or truth values."""
_FLOAT, _HALVES = "tensor(float)", ("tensor(float16)", "tensor(bfloat16)")


@dataclass(frozen=True)
class OutputQuality:
    """One output. sqnr_db: 10 log10(Σ reference² / Σ error²); relative_mse: error over variance, per channel.

    kind: an `OutputKind`, or LABELS for integers. kl_nats: only for classifier-like outputs; top1_agreement: for those,
    and the share of equal values of LABELS, whose relative_mse is 1 less that. sqnr_unfused_db: the
    same graph without the runtime's graph optimisations. rows: of class scores, that agreement is a share of.
    """

    name: str
    kind: str
    sqnr_db: float
    cosine: float
    relative_mse: float
    kl_nats: float | None = None
    top1_agreement: float | None = None
    sqnr_unfused_db: float | None = None
    rows: int | None = None

    @property
    def levels_disagree(self) -> bool:
        """True where the optimised and the unoptimised graph differ by more than rounding can explain."""
        other = self.sqnr_unfused_db
        return other is not None and abs(other - self.sqnr_db) > DISAGREEMENT_DB and min(other, self.sqnr_db) < 40

    def disagreement(self) -> str:
        """That in a line; empty where they agree."""
        if not self.levels_disagree:
            return ""
        return (
            f"output {self.name}: SQNR is {self.sqnr_db:.1f} dB as onnxruntime optimises the graph, "
            f"{self.sqnr_unfused_db:.1f} dB without its optimisations; check the runtime you deploy on"
        )


@dataclass(frozen=True)
class MetricScores:
    """A metric on labelled samples, higher is better: of the original and of the result.

    doubt: why the original's own is implausible, in words, or "".
    """

    name: str
    original: float
    result: float
    doubt: str = ""


@dataclass(frozen=True, repr=False)
class Validation(Shown):
    """samples: how many, none of which calibration saw where `held_out` is true; None where that is not known.
    metric: only with labels.

    timing: with the number of threads that the latency budget is about. other_timings: with other numbers. steps: of a
    decoder, with the threads of the budget.
    emulated: the graph has fp8, which the CPU computes with Q/DQ kept as they are; no time is taken then.
    """

    outputs: tuple[OutputQuality, ...]
    samples: int
    held_out: bool | None
    timing: Timing | None = None
    emulated: bool = False
    metric: MetricScores | None = None
    other_timings: tuple[Timing, ...] = ()
    steps: tuple[StepTiming, ...] = ()

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        timing, metric = self.timing, self.metric
        quality = [(o.name, _in_words(o)) for o in self.outputs[:_SHOWN]]
        more = [("", "")] if len(self.outputs) <= _SHOWN else [("...", f"{len(self.outputs) - _SHOWN} more outputs")]
        return f"{self.samples} {'held-out ' if self.held_out else ''}samples", [
            *quality,
            *more,
            ("latency", "" if timing is None else f"{timing.original_s * 1e3:.3f} -> {timing.result_s * 1e3:.3f} ms"),
            ("metric", "" if metric is None else f"{metric.name} {metric.original:.4g} -> {metric.result:.4g}"),
        ]

    @property
    def deciding(self) -> tuple[OutputQuality, ...]:
        """Outputs that quality is judged by: all but LABELS, which a list of indices in another order is too; those
        where there are no others."""
        return tuple(o for o in self.outputs if o.kind != LABELS) or self.outputs

    @property
    def worst_sqnr_db(self) -> float:
        return min((o.sqnr_db for o in self.deciding), default=float("inf"))

    @property
    def divergence(self) -> float:
        """Summed over outputs: KL in nats where they are class scores, else error over variance."""
        return sum(o.relative_mse if o.kl_nats is None else o.kl_nats for o in self.deciding)

    @property
    def agreement(self) -> float | None:
        """Top-1 agreement of the worst classifier-like output."""
        return min((o.top1_agreement for o in self.deciding if o.top1_agreement is not None), default=None)


def _in_words(output: OutputQuality) -> str:
    parts = [f"SQNR {output.sqnr_db:.1f} dB", f"relative error {output.relative_mse:.3g}"]
    parts += [] if output.kl_nats is None else [f"KL {output.kl_nats:.3g} nats"]
    parts += [] if output.top1_agreement is None else [f"agreement {output.top1_agreement:.1%}"]
    return ", ".join(parts)


def compare(
    original: Any,
    result: Any,
    feeds: Feeds,
    kinds: Mapping[str, OutputKind],
    *,
    settings: SessionSettings,
    held_out: bool | None,
    unfused: bool = True,
) -> Validation:
    """Quality of `result` against `original` (paths, bytes or protos) on all samples, without timing.

    Both run in the child of `onnxmpq.isolation`. Raises ModelError where one of them does not run, CrashError where it
    ends or hangs the runtime, ValidationError where they have different inputs or outputs.
    """
    return Reference.of(original, feeds, settings).compare(result, kinds, held_out=held_out, unfused=unfused)


def guessed_kinds(original: Any, feeds: Feeds, settings: SessionSettings) -> dict[str, OutputKind]:
    """Kinds of a model's floating-point outputs, from the first sample. original: path or proto."""
    runs = absolute(original)
    once = replace(settings, mapped=True)
    first = call(outputs_on, runs, feeds.batch([feeds.largest]), once, doing="running the original")
    proto = runs if isinstance(runs, onnx.ModelProto) else onnx.load(original, load_external_data=False)
    return {
        o.name: guess_kind(proto, o.name, np.asarray(v, np.float32))
        for o, v in zip(proto.graph.output, first, strict=True)
        if isinstance(v, np.ndarray) and np.issubdtype(v.dtype, np.floating)
    }


def fusion_sqnr_db(model: Any, feeds: Feeds, settings: SessionSettings) -> float:
    """SQNR in dB, at the worst output, of a model's optimised session against its unoptimised one: infinite where they
    compute the same. Raises ModelError, CrashError."""
    plain = Reference.of(model, feeds, replace(settings, optimize=False))
    return replace(plain, settings=settings).compare(model, {}, held_out=False, unfused=False).worst_sqnr_db


@dataclass(frozen=True, eq=False)
class Reference:
    """The original on some samples, run once and kept in the child, for several models to be compared with.

    limit_s: a model that takes longer on these samples hangs.
    """

    ran: Kept[_Ran]
    samples: Kept[Feeds]
    count: int
    settings: SessionSettings
    limit_s: float

    @classmethod
    def of(cls, original: Any, feeds: Feeds, settings: SessionSettings) -> Reference:
        """original: path, bytes or proto. Raises ModelError where it does not run."""
        start, samples = time.perf_counter(), kept(feeds)
        ran = keep(_ran, absolute(original), samples, replace(settings, mapped=True))
        call(_interface, ran, doing="running the original")
        return cls(ran, samples, len(feeds), settings, patience_s(time.perf_counter() - start))

    def compare(
        self, result: Any, kinds: Mapping[str, OutputKind], *, held_out: bool | None, unfused: bool = True
    ) -> Validation:
        """As `compare`."""
        arguments = self.ran, absolute(result), self.samples, dict(kinds), self.settings, unfused
        qualities, emulated = call(_qualities, *arguments, doing="running the converted model", limit_s=self.limit_s)
        return Validation(qualities, self.count, held_out, emulated=emulated)


def check_same_interface(before: Interface, after: Interface) -> None:
    """Raises ValidationError where inputs or outputs differ by name or type; 16 bits may stand for float32."""
    for what, one, two in (("inputs", before.inputs, after.inputs), ("outputs", before.outputs, after.outputs)):
        a, b = ({(name, _FLOAT if kind in _HALVES else kind) for name, kind in side} for side in (one, two))
        if a != b:
            names = ", ".join(sorted(f"{n}: {t}" for n, t in a ^ b))
            raise ValidationError(
                f"the two models have different {what} ({names}); compare a model with its conversion"
            )


# ---- in the child ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interface:
    """Names and onnxruntime types of a model's inputs and outputs."""

    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, session: Session) -> Interface:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        return cls(tuple((i.name, i.type) for i in inputs), tuple((o.name, o.type) for o in outputs))


@dataclass(frozen=True, eq=False)
class _Ran:
    """runs: outputs per sample."""

    interface: Interface
    runs: list[list[Array]]


def _ran(model: Any, feeds: Feeds, settings: SessionSettings) -> _Ran:
    session = open_session(model, settings)
    return _Ran(Interface.of(session), list(runs_of(session, feeds)))


def _interface(ran: _Ran) -> Interface:
    return ran.interface


def _qualities(
    original: _Ran,
    result: Any,
    feeds: Feeds,
    kinds: Mapping[str, OutputKind],
    settings: SessionSettings,
    unfused: bool,
) -> tuple[tuple[OutputQuality, ...], bool]:
    """Quality of each float output, and whether fp8 was emulated."""
    emulated = holds_fp8(result)
    after = open_session(result, replace(settings, keep_qdq=settings.keep_qdq or runs_unfused(result)))
    check_same_interface(original.interface, Interface.of(after))
    reference, outputs = original.runs, list(runs_of(after, feeds))
    del after  # before another session is opened
    plain: list[list[Array]] | None = None
    if unfused and not emulated:  # else there is nothing that was fused
        level = SessionSettings(settings.threads, settings.provider, optimize=False, keep_qdq=settings.keep_qdq)
        plain = list(runs_of(open_session(result, level), feeds))
    qualities = []
    for position, (name, _) in enumerate(original.interface.outputs):
        a, b = [r[position] for r in reference], [o[position] for o in outputs]
        c = [p[position] for p in plain] if plain else None
        kind = kinds.get(name, "values")
        if not OUTPUT_KINDS[kind].deliberate or not all(isinstance(x, np.ndarray) for x in (*a, *b, *(c or ()))):
            continue
        if feeds.ragged and feeds.decide([x.shape for x in a]):
            filled = [i for i, x in enumerate(a) if x.size]
            a, b = [a[i] for i in filled], [b[i] for i in filled]
            c = None if c is None else [c[i] for i in filled]
            shapes = [x.shape for x in a]
        else:
            shapes = [a[0].shape] * len(a)
        if not _comparable_by_position(shapes, a, b, *([] if c is None else [c])):
            continue
        if np.issubdtype(a[0].dtype, np.floating):
            qualities.append(_quality(name, kind, *_comparable(a, b, c)))
        elif a[0].dtype.kind in "iub":
            qualities.append(_labels(name, a, b))
    return tuple(qualities), emulated


def _comparable_by_position(shapes: Sequence[tuple[int, ...]], *sides: Sequence[Array]) -> bool:
    """False for a list whose length depends on the data, and where nothing is left."""
    return bool(shapes) and all(x.shape == s and x.size for side in sides for x, s in zip(side, shapes, strict=True))


def _comparable(
    reference: Sequence[Array], result: Sequence[Array], plain: Sequence[Array] | None
) -> tuple[list[Array], list[Array], list[Array] | None]:
    """The same, with 0 in all of them where the reference is NaN or infinite, as masks make it."""
    masks = [np.isfinite(np.asarray(a, np.float64)) for a in reference]
    if all(m.all() for m in masks):
        return list(reference), list(result), None if plain is None else list(plain)
    cleared = [[np.where(m, v, 0) for m, v in zip(masks, side, strict=True)] for side in (reference, result)]
    rest = None if plain is None else [np.where(m, v, 0) for m, v in zip(masks, plain, strict=True)]
    return cleared[0], cleared[1], rest


def _labels(name: str, reference: Sequence[Array], result: Sequence[Array]) -> OutputQuality:
    """Of an output of integers or truth values, such as classes: the share of equal ones. Its error is 1 less that."""
    before, after = (np.concatenate([np.asarray(x, np.float64).ravel() for x in side]) for side in (reference, result))
    share = float((before == after).mean())
    noise = float(np.square(before - after).sum())
    size = float(np.linalg.norm(before) * np.linalg.norm(after))
    cosine = 1.0 if noise == 0 else float(before @ after) / max(size, 1e-300)
    sqnr = _decibel(float(np.square(before).sum()), noise)
    return OutputQuality(name, LABELS, sqnr, cosine, 1.0 - share, top1_agreement=share)


def _quality(
    name: str, kind: OutputKind, reference: Sequence[Array], result: Sequence[Array], plain: Sequence[Array] | None
) -> OutputQuality:
    before = [np.asarray(r, np.float64) for r in reference]
    after = [np.asarray(r, np.float64) for r in result]
    signal = sum(float(np.square(a).sum()) for a in before)
    noise = sum(float(np.square(a - b).sum()) for a, b in zip(before, after, strict=True))
    dot = sum(float((a * b).sum()) for a, b in zip(before, after, strict=True))
    power = sum(float(np.square(b).sum()) for b in after)
    kl = agreement = None
    if OUTPUT_KINDS[kind].scores is not None and len({x.shape[-1] for x in before}) == 1:
        kl, agreement = _classifier(kind, before, after)
    unfused = None
    if plain is not None:
        rest = sum(float(np.square(np.subtract(a, b)).sum()) for a, b in zip(before, plain, strict=True))
        unfused = _decibel(signal, rest)
    return OutputQuality(
        name,
        kind,
        _decibel(signal, noise),
        dot / max(np.sqrt(signal * power), 1e-300),
        _relative_mse(before, after),
        kl,
        agreement,
        unfused,
        None if agreement is None else sum(b.size // b.shape[-1] for b in before),
    )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(max(signal, 1e-300) / noise))


def _relative_mse(before: Sequence[Float], after: Sequence[Float]) -> float:
    """Mean over channels (axis 1 from three axes on; see `channel_axis` where shapes differ) of squared error over
    variance."""
    shapes = [x.shape for x in before]
    if len(set(shapes)) > 1:
        axis = channel_axis(shapes)
        a, b = (np.concatenate([by_channels(x, axis) for x in side], axis=1) for side in (before, after))
    else:
        channels = before[0].shape[1] if before[0].ndim >= 3 else 1
        a, b = (np.concatenate([x.reshape(channels, -1) for x in side], axis=1) for side in (before, after))
    return float((np.square(a - b).mean(axis=1) / np.square(floored(a.std(axis=1)))).mean())


def _classifier(kind: OutputKind, before: Sequence[Float], after: Sequence[Float]) -> tuple[float, float]:
    a = np.concatenate([x.reshape(-1, x.shape[-1]) for x in before])
    b = np.concatenate([x.reshape(-1, x.shape[-1]) for x in after])
    a, b = class_scores(kind, a), class_scores(kind, b)
    return float(kl_divergence(a, b).mean()), float((a.argmax(axis=-1) == b.argmax(axis=-1)).mean())
