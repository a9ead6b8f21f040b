"""Samples: read, divided, and used to check that the prepared model computes what the original does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from onnxmpq.context import Context
from onnxmpq.errors import CalibrationError, CrashError, ModelError
from onnxmpq.feeds import Feeds, load_feeds
from onnxmpq.isolation import call, patience_s
from onnxmpq.model import Model, table_rows
from onnxmpq.ranges import explain_nonfinite
from onnxmpq.runtimes import SessionSettings, absolute, outputs_on, specs_of
from onnxmpq.samples.data_free import recipe_by_batchnorm
from onnxmpq.trials import OWN_THREADS, run_all

R = TypeVar("R")
HELD_OUT_SHARE = 0.25
DECIDING_SHARE = 0.25  # of the calibration samples
FEWEST_DECIDING = 2  # to judge a rounding by them
FEWEST_FOR_EFFECTS = 32  # to do without those that decide
_RUNNING = "running the model"
_FIRST = (SessionSettings(threads=OWN_THREADS), SessionSettings(threads=OWN_THREADS, optimize=False))
"""Settings of the first runs: with the kernels, fused and not, that later steps run in this process."""


@dataclass(frozen=True)
class Samples:
    """Calibration samples, and others for validation. held_out: False where there are too few to hold any back.

    first_s: what one sample took when the model ran for the first time, sessions included.
    """

    calibration: Feeds
    validation: Feeds
    held_out: bool
    first_s: float = 0.0

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


def gather_samples(model: Model, calibration: Any, recipe: str | None, limit: int, context: Context) -> Samples:
    """Read the samples and hold every fourth one back for validation.

    The model runs for the first time here, in the child of `onnxmpq.isolation`: from then on it runs in this process
    too. Raises ModelError where it does not run, CrashError where it ends the runtime.
    """
    specs, tables = _first(specs_of, model.proto, doing="loading the model"), table_rows(model.structure)
    bounds = tables if calibration is None else None
    unknown = calibration is None and recipe is None and model.batchnorm
    fitting = (
        _first(recipe_by_batchnorm, model, specs, context.seed, context.threads, doing=_RUNNING) if unknown else None
    )
    recipe, reasons = (fitting[0], (fitting[1],)) if fitting else (recipe, ())
    feeds = load_feeds(calibration, specs, recipe=recipe, limit=limit + limit // 3, seed=context.seed, bounds=bounds)
    check_lookups(feeds, tables)
    feeds = replace(feeds, notes=(*feeds.notes, *reasons))
    start = time.perf_counter()
    _first(run_all, model.proto, [feeds.batch([0])], _FIRST, doing=_RUNNING)
    first_s = time.perf_counter() - start
    for note in feeds.notes:
        (context.progress.warn if feeds.synthetic else context.progress.say)(note)
    count = len(feeds)
    every = round(1 / HELD_OUT_SHARE)
    if count < every:
        context.progress.warn(f"only {count} calibration sample(s): quality is validated on the same samples")
        return Samples(feeds, feeds, False, first_s)
    back = [i for i in range(count) if i % every == every - 1]
    rest = [i for i in range(count) if i % every != every - 1]
    return Samples(feeds.take(rest), feeds.take(back), True, first_s)


def _first(function: Callable[..., R], *arguments: Any, doing: str) -> R:
    """A call in the child, on a model that the user gave. Raises CrashError with what can be done about it."""
    try:
        return call(function, *arguments, doing=doing)
    except CrashError as error:
        what = f"{error}; try it in another version of onnxruntime, and report the model to that project"
        raise CrashError(what, by_model=error.by_model, hung=error.hung) from None


def check_lookups(feeds: Feeds, tables: Mapping[str, int]) -> None:
    """Every id must be in the table that the model looks it up in. tables: rows by input. Raises CalibrationError."""
    for name, rows in tables.items():
        ids = feeds.arrays[name].astype(np.int64)
        wrong = (ids < -rows) | (ids >= rows)  # Gather counts negative ones from the table's end
        if wrong.any():
            first = np.argwhere(wrong)[0]
            raise CalibrationError(
                f"input {name!r} holds {ids[tuple(first)]} in sample {feeds.label(int(first[0]))}, but the model looks "
                f"it up in a table of {rows} rows; give ids from 0 to {rows - 1}"
            )


def check_prepared(source: Any, model: Model, feeds: Feeds) -> None:
    """The prepared graph must compute what the original does. Raises ModelError; CrashError where onnxruntime dies."""
    inputs = feeds.batch([0])
    sides = (_first(outputs_on, absolute(m), inputs, doing=_RUNNING) for m in (source, model.proto))
    for name, before, after in zip(model.output_names, *sides, strict=True):
        if not isinstance(before, np.ndarray) or not np.issubdtype(before.dtype, np.floating):
            continue
        if not np.isfinite(before).all():
            where = explain_nonfinite(model.proto, inputs) or "its prepared graph computes neither"
            raise ModelError(
                f"the model computes NaN or infinity at output {name!r} for calibration sample {feeds.label(0)}: "
                f"{where}; check the preprocessing of the samples, or the model there"
            )
        reach = float(np.abs(before).max(initial=0.0)) or 1.0
        if float(np.abs(np.subtract(before, after)).max(initial=0.0)) > 1e-3 * reach:
            raise ModelError(f"folding or raising the opset changed output {name!r}; please report this model")
