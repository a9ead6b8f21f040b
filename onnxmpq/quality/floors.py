"""Quality floors: what a converted model must keep, and whether it does.

--min-sqnr 30dB        worst output's 10 log10(Σ reference² / Σ error²)
--max-divergence 0.01  KL in nats of classifier-like outputs, error over variance of others; summed over outputs
--min-agreement 99%    rows whose largest entry is where fp32 has it, worst classifier-like output
--max-drop 0.5%        of a metric on labelled samples: top-1 accuracy, or --metric module:function
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.execution import runs_of
from onnxmpq.feeds import Array, Feeds, import_source
from onnxmpq.intervals import at_most
from onnxmpq.isolation import call
from onnxmpq.quality.comparison import Validation
from onnxmpq.runtimes import SessionSettings, absolute, open_session, widened

_ROUNDING = 1e-9
CHANCE = 0.05
TOP1 = "top-1"
"""Name of the metric where the user gives none."""
MetricFunction = Callable[[Mapping[str, Array | list[Array]], Array | None], float]
_NUMBER = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(dB|%)?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Floors:
    """Limits of quality; None where there is none. max_drop: in the metric's own unit (0.005 for half a point)."""

    min_sqnr_db: float | None = None
    max_divergence: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None

    @property
    def empty(self) -> bool:
        return all(v is None for v in (self.min_sqnr_db, self.max_divergence, self.min_agreement, self.max_drop))

    def unmet(self, quality: Validation) -> list[str]:
        """Floors that are not kept, a short text each: "SQNR 27.1 dB, at least 30 asked"."""
        found: list[str] = []
        if self.min_sqnr_db is not None and quality.worst_sqnr_db < self.min_sqnr_db:
            found.append(f"SQNR {quality.worst_sqnr_db:.1f} dB, at least {self.min_sqnr_db:g} asked")
        if self.max_divergence is not None and quality.divergence > self.max_divergence:
            found.append(f"divergence {quality.divergence:.3g}, at most {self.max_divergence:g} asked")
        if self.min_agreement is not None and (quality.agreement or 0.0) < self.min_agreement:
            found.append(f"top-1 agreement {quality.agreement or 0.0:.1%}, at least {self.min_agreement:.4g} asked")
        metric = quality.metric
        if self.max_drop is not None and metric and metric.original - metric.result > self.max_drop + _ROUNDING:
            drop = metric.original - metric.result
            found.append(f"{metric.name} dropped by {drop:.4g}, at most {self.max_drop:g} asked")
        return found

    def require_labels(self, labelled: bool) -> None:
        """Raises UsageError where a metric has to be kept and there is none to take."""
        if self.max_drop is not None and not labelled:
            raise UsageError("--max-drop needs labels: give --labels, and --metric for other than top-1 accuracy")

    def require_classes(self, found: bool) -> None:
        """Raises UsageError where classes have to agree and no output has any."""
        if self.min_agreement is not None and not found:
            raise UsageError("--min-agreement needs an output of class scores, and this model has none")

    def require_data(self, made_up: bool) -> None:
        """Raises CalibrationError where quality is to be judged on made-up samples, which say nothing of it."""
        if made_up and not self.empty:
            asked = ", ".join(f"--{name.replace('_', '-')}" for name in self.asked())
            raise CalibrationError(f"{asked}: no quality is judged on made-up samples; give real ones with --calib")

    def asked(self) -> dict[str, str]:
        """The floors as the command line spells them, for plans and reports."""
        given = {
            "min_sqnr": self.min_sqnr_db and f"{self.min_sqnr_db:g}dB",
            "max_divergence": self.max_divergence and f"{self.max_divergence:g}",
            "min_agreement": self.min_agreement and f"{self.min_agreement * 100:g}%",
            "max_drop": self.max_drop is not None and f"{self.max_drop * 100:g}%",
        }
        return {name: text for name, text in given.items() if text}


def parse_floors(
    min_sqnr: str | float | None = None,
    max_divergence: str | float | None = None,
    min_agreement: str | float | None = None,
    max_drop: str | float | None = None,
) -> Floors:
    """Floors from the command line's spelling. Raises UsageError."""
    agreement = _number("--min-agreement", min_agreement, "99%", ("%", ""))
    if agreement is not None and agreement > 1.0:
        raise UsageError(f"--min-agreement {min_agreement!r}: more than all; write for example 99%")
    return Floors(
        _number("--min-sqnr", min_sqnr, "30dB", ("db", "")),
        _number("--max-divergence", max_divergence, "0.01", ("",)),
        agreement,
        _number("--max-drop", max_drop, "0.5%", ("%", "")),
    )


def _number(option: str, text: str | float | None, example: str, units: Sequence[str]) -> float | None:
    if text is None:
        return None
    match = _NUMBER.match(str(text))
    unit = (match[2] or "").lower() if match else ""
    if match is None or unit not in units:
        raise UsageError(f"{option} {text!r}: cannot be understood; write for example {example}")
    return float(match[1]) * (0.01 if unit == "%" else 1.0)


@dataclass(frozen=True)
class Metric:
    """A figure of merit on labelled samples, higher is better. name: for reports."""

    name: str
    function: MetricFunction

    @classmethod
    def named(cls, reference: str | MetricFunction | None) -> Metric:
        """`module:function`, a function, or None for top-1 accuracy. Raises UsageError."""
        if reference is None:
            return cls(TOP1, top1)
        found: Any = import_source(reference) if isinstance(reference, str) else reference
        if not callable(found):
            raise UsageError(f"--metric {reference}: is a {type(found).__name__}, not a function (outputs, labels)")
        return cls(reference if isinstance(reference, str) else getattr(found, "__name__", "metric"), found)

    def score(self, model: Any, feeds: Feeds, labels: Array | None, settings: SessionSettings) -> float:
        """The function's value for the outputs of a model (path, bytes or proto) on all samples.

        The model runs in the child of `onnxmpq.isolation`, the function here. Raises CalibrationError where the
        function fails, ModelError where the model does.
        """
        return self.value(outputs_for(model, feeds, settings), labels)

    def value(self, outputs: Mapping[str, Array | list[Array]], labels: Array | None) -> float:
        """The function's value for outputs. Raises CalibrationError where it fails."""
        try:
            value = float(self.function(outputs, labels))
        except Exception as error:
            if self.function is top1 and isinstance(error, ValueError):  # a fault of the labels, not of the function
                raise CalibrationError(f"metric {self.name}: {error}") from None
            raise CalibrationError(f"metric {self.name} raised {type(error).__name__}: {error}; repair it") from error
        if not np.isfinite(value):
            raise CalibrationError(f"metric {self.name} gave {value}; it must be a finite number")
        return value


def outputs_for(model: Any, feeds: Feeds, settings: SessionSettings) -> dict[str, Array | list[Array]]:
    """Output name -> values of all samples, computed in the child. Raises ModelError."""
    return call(_outputs, absolute(model), feeds, settings, doing="running a model for the metric")


def _outputs(model: Any, feeds: Feeds, settings: SessionSettings) -> dict[str, Array | list[Array]]:
    """Output name -> values of all samples."""
    session = open_session(model, settings)
    runs = [[widened(v) for v in outputs] for outputs in runs_of(session, feeds)]
    return {o.name: _stacked([r[i] for r in runs]) for i, o in enumerate(session.get_outputs())}


def _stacked(values: list[Array]) -> Array | list[Array]:
    """One array, first axis = samples, where all samples have the same shape."""
    if all(v.shape == values[0].shape and v.ndim for v in values):
        return np.concatenate(values)
    return values


def top1(outputs: Mapping[str, Array | list[Array]], labels: Array | None) -> float:
    """Share of samples (or rows) whose largest entry of the first output is at the label.

    labels: class numbers [samples]; as floats too, if they are whole. Raises ValueError.
    """
    scores = next(iter(outputs.values()))
    if labels is None or not isinstance(scores, np.ndarray) or scores.ndim < 2:
        raise ValueError("top-1 needs labels and an output [samples, classes]")
    parts = labels[labels % 1 != 0] if labels.dtype.kind == "f" else labels[:0]
    if parts.size:
        raise ValueError(f"labels are class numbers, and {parts.flat[0]:g} is none: give whole numbers, or a --metric")
    classes = scores.argmax(axis=-1)
    if classes.size != labels.size:
        raise ValueError(f"{labels.size} labels for {classes.size} rows of scores")
    return float((classes.reshape(-1) == labels.reshape(-1)).mean())


def implausible_scores(outputs: Mapping[str, Array | list[Array]], labels: Array | None) -> str:
    """A warning where top-1 of a model is implausible, empty where it is not or no class scores can be told.

    Implausible: guessing among the classes is as good with a probability of more than 5 % (binomial), or it is right
    on less than half of what it is sure of itself, by its mean largest probability, at a significance of 5 %.
    """
    scores = next(iter(outputs.values()))
    if labels is None or not isinstance(scores, np.ndarray) or scores.ndim < 2 or scores.shape[-1] < 2:
        return ""
    count, classes = labels.size, scores.shape[-1]
    right, sure = round(top1(outputs, labels) * count), _mean_confidence(scores)
    if not right or 1.0 - at_most(right - 1, count, 1.0 / classes) > CHANCE:
        why = f"as by guessing among {classes} classes"
    elif at_most(right, count, sure / 2.0) <= CHANCE:
        why = f"but is sure of its classes by {sure:.0%} on average"
    else:
        return ""
    return (
        f"fp32 itself has {right} of {count} labels right, {why}: the recipe, the labels or their order do not fit the "
        "model"
    )


def _mean_confidence(scores: Array) -> float:
    """Mean largest probability of rows of class scores, which are probabilities or logits."""
    rows = np.asarray(scores, np.float64).reshape(-1, scores.shape[-1])
    if (rows >= 0.0).all() and np.allclose(rows.sum(axis=1), 1.0, atol=1e-2):
        return float(rows.max(axis=1).mean())
    return float((1.0 / np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1)).mean())
