"""Samples: read and divided."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxmpq.context import Context
from onnxmpq.errors import CalibrationError, ModelError
from onnxmpq.feeds import Feeds, InputSpec, Recipe, Share, Timed, load_feeds, timed_samples
from onnxmpq.isolation import patience_s
from onnxmpq.model import Model, table_rows
from onnxmpq.runtimes import absolute, specs_of
from onnxmpq.samples.agree import WAYS
from onnxmpq.samples.data_free import recipe_by_batchnorm
from onnxmpq.samples.first import RUNNING, first
from onnxmpq.trials import run_all

HELD_OUT_SHARE = 0.25
DECIDING_SHARE = 0.25  # of the calibration samples
FEWEST_DECIDING = 2  # to judge a rounding by them
FEWEST_FOR_EFFECTS = 32  # to do without those that decide


@dataclass(frozen=True)
class Samples:
    """Calibration samples, and others for validation. held_out: False where there are too few to hold any back.

    first_s: what the largest sample took when the model ran for the first time, sessions included. shapes: of what is
    timed.
    """

    calibration: Feeds
    validation: Feeds
    held_out: bool
    first_s: float = 0.0
    shapes: tuple[Share, ...] = ()

    @property
    def timed(self) -> Timed:
        """Samples that are timed. Raises UsageError for shapes that do not fit."""
        return timed_samples(self.calibration, self.shapes)

    def in_words(self) -> str:
        """Number of samples by use, and their source."""
        count, deciding = len(self.calibration), len(self.deciding)
        used = f"{count} to calibrate with" + (f", {deciding} of which decide between plans" if deciding else "")
        others = f"{len(self.validation)} others held out" if self.held_out else "none held out"
        return f"samples: {used}; {others}; from {self.calibration.source}"

    @property
    def limit_s(self) -> float:
        """A model that takes longer for all calibration samples hangs."""
        return patience_s(self.first_s * len(self.calibration))

    @property
    def rounding(self) -> Feeds:
        """Calibration samples that weights are rounded for."""
        return self.calibration.take([i for i in range(len(self.calibration)) if not self._decides(i)])

    @property
    def deciding(self) -> Feeds:
        """The other calibration samples, which decide on what rounding did; none where there are too few."""
        return self.calibration.take([i for i in range(len(self.calibration)) if self._decides(i)])

    @property
    def effects(self) -> Feeds:
        """Calibration samples for effects: those of rounding, so that the others judge plans without having helped to
        make them; all where few would be left."""
        rest = self.rounding
        return rest if len(rest) >= FEWEST_FOR_EFFECTS else self.calibration

    @staticmethod
    def _decides(number: int) -> bool:
        every = round(1 / DECIDING_SHARE)
        return number % every == every - 1


def gather_samples(
    model: Model, calibration: Any, recipe: str | Recipe | None, limit: int, context: Context, source: Any = None
) -> Samples:
    """Read the samples and hold every fourth one back for validation.

    source: path or proto that the model was prepared from, which then runs here for the first time, in the child of
    `onnxmpq.isolation`; without it the prepared model does. Raises ModelError where it does not run, CrashError where
    it ends the runtime.
    """
    runs = model.proto if source is None else absolute(source)
    specs, tables = first(specs_of, runs, doing="loading the model"), table_rows(model.structure)
    bounds = tables if calibration is None else None
    unknown = calibration is None and recipe is None and model.batchnorm
    fitting = _fitting_recipe(model, specs, context) if unknown else None
    recipe, reasons = (fitting[0], (fitting[1],)) if fitting else (recipe, ())
    feeds = load_feeds(calibration, specs, recipe=recipe, limit=limit + limit // 3, seed=context.seed, bounds=bounds)
    check_lookups(feeds, tables)
    feeds = replace(feeds, notes=(*feeds.notes, *reasons))
    start = time.perf_counter()
    first(run_all, runs, [feeds.batch([feeds.largest])], WAYS, doing=RUNNING)
    first_s = time.perf_counter() - start
    for note in feeds.notes:
        (context.progress.warn if feeds.synthetic else context.progress.say)(note)
    count = len(feeds)
    every = round(1 / HELD_OUT_SHARE)
    if count < every:
        context.progress.warn(f"only {count} calibration sample(s): quality is validated on the same samples")
        return _said(Samples(feeds, feeds, False, first_s), context)
    back = [i for i in range(count) if i % every == every - 1]
    rest = [i for i in range(count) if i % every != every - 1]
    return _said(Samples(feeds.take(rest), feeds.take(back), True, first_s), context)


def _said(samples: Samples, context: Context) -> Samples:
    context.progress.say(samples.in_words())
    return samples


def _fitting_recipe(model: Model, specs: Sequence[InputSpec], context: Context) -> tuple[str, str] | None:
    """As `recipe_by_batchnorm`; None where the prepared model does not run, which `agreeing` looks into."""
    try:
        return first(recipe_by_batchnorm, model, specs, context.seed, context.threads, doing=RUNNING)
    except ModelError:
        return None


def check_lookups(feeds: Feeds, tables: Mapping[str, int]) -> None:
    """Every id must be in the table that the model looks it up in. tables: rows by input. Raises CalibrationError."""
    for name, rows in tables.items():
        for sample, values in enumerate(feeds.values(name)):
            ids = values.astype(np.int64)
            wrong = ids[(ids < -rows) | (ids >= rows)]  # Gather counts negative ones from the table's end
            if wrong.size:
                raise CalibrationError(
                    f"input {name!r} holds {wrong[0]} in sample {feeds.label(sample)}, but the model looks it up in a "
                    f"table of {rows} rows; give ids from 0 to {rows - 1}"
                )
