"""Calibration: histograms of activations, observed now or taken from a file, and the ranges worth comparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxmpq.context import Context
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.provenance import describe_runtime, other_versions
from onnxmpq.ranges.estimators import CHOICES
from onnxmpq.ranges.exchange import Calibration, read_calibration
from onnxmpq.ranges.headroom import headroom
from onnxmpq.ranges.observe import Observation
from onnxmpq.ranges.params import QuantParams
from onnxmpq.ranges.reuse import observed
from onnxmpq.schemes import ActivationType


def known_ranges(
    given: str | Path | Calibration | None, model: Model, name: str, context: Context
) -> Calibration | None:
    """The calibration that was given, or the one in the file. Raises CalibrationError where it fits another model."""
    if given is None:
        return None
    found = given if isinstance(given, Calibration) else read_calibration(Path(given))
    found.require(model, name)
    samples = found.samples
    apart = other_versions(found.runtime, describe_runtime())
    made = f", with {', '.join(apart)}" if apart else ""
    context.progress.say(
        f"activation ranges as calibrated before, on {samples['count']} samples of {samples['source']}{made}"
    )
    return found


def observe_ranges(
    model: Model,
    tensors: Sequence[str],
    feeds: Feeds,
    context: Context,
    known: Calibration | None = None,
    estimator: str = "auto",
) -> Observation:
    """Histograms of these tensors; those of `known` where it is given.

    estimator: a name of `CHOICES`, to make ranges of them.
    """
    if not tensors:
        return Observation({}, {})
    if known is not None:
        found, made_up = known.of(tensors), bool(known.samples["made_up"])
    else:
        with context.progress.stage("calibrating activation ranges", len(tensors) * len(feeds)) as tick:
            found, made_up = observed(context, model, feeds, tensors, tick), feeds.synthetic
    room = headroom(model.structure, tensors) if made_up else {}
    if room:
        context.progress.detail(
            f"made-up samples: activation ranges are widened with depth, up to {max(room.values()):.2g} times"
        )
    return replace(found, estimators=CHOICES[estimator], headroom=room)


def range_candidates(observation: Observation, tensor: str, kind: ActivationType) -> list[QuantParams]:
    """Parameters worth comparing by their effect on the outputs: estimators that differ by over two percent."""
    kept: list[QuantParams] = []
    for name in observation.estimators:
        params = observation.estimate(tensor, name, kind=kind)
        if all(abs(params.scale / other.scale - 1.0) > 0.02 for other in kept):
            kept.append(params)
    return kept
