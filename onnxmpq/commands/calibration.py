"""Calibration on its own: `onnxmpq calibrate`, and how its result is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxmpq.cache import Cache
from onnxmpq.context import Context
from onnxmpq.feeds import Recipe
from onnxmpq.isolation import isolated
from onnxmpq.keys import feeds_hash
from onnxmpq.menu import observed_tensors, require_candidates
from onnxmpq.opening import open_model, open_target
from onnxmpq.progress import Progress
from onnxmpq.provenance import describe_runtime
from onnxmpq.ranges import CHOICES, Calibration, observe_ranges
from onnxmpq.report import source_name
from onnxmpq.request import DEFAULT_SAMPLES, Request, Source, accepts, documents, require_source
from onnxmpq.threads import with_one_blas_thread


@accepts
@documents(Request)
@with_one_blas_thread
@isolated()
def calibrate(
    model: Source,
    *,
    calibration: Any = None,
    recipe: str | Recipe | None = None,
    target: str = "cpu",
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    cache: str | Path | bool = True,
    progress: Progress | None = None,
) -> Calibration:
    """Histograms of every activation that the target may quantize, for `convert(ranges=...)`.

    The samples are those that `convert` with the same arguments would calibrate on: every fourth one is left out, so
    that a later validation on the same source has samples that were never seen.
    """
    require_source(model)
    heard = progress or Progress()
    context = Context(heard, Cache.of(cache, heard), seed)
    read = open_model(model, open_target(target), progress=heard)
    opened, gathered = read.with_samples(calibration, recipe, samples, context)
    data = gathered.calibration
    menu = opened.menu()
    require_candidates(opened.model, menu)
    observation = observe_ranges(opened.model, observed_tensors(opened.model, menu), data, context)
    return Calibration(
        model={"name": source_name(model), "sha256": opened.model.source_sha256},
        target=opened.device.name,
        samples={
            "source": data.source,
            "recipe": recipe if recipe is None or isinstance(recipe, str) else recipe.name,
            "count": len(data),
            "sha256": feeds_hash(data),
            "made_up": data.synthetic,
        },
        runtime=describe_runtime(),
        observation=observation,
    )


def render(calibration: Calibration, console: Console) -> None:
    """Draw a row per tensor: what was seen, the ranges that `convert` compares, and how much the first cuts off."""
    params, found = calibration.params(), calibration.observation
    compared, widened = CHOICES["auto"], any(factor > 1.0 for factor in found.headroom.values())
    title = (
        f"{calibration.model['name']}: {len(found.histograms)} activations on {calibration.samples['count']} samples"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("tensor", overflow="fold")
    headings = ("shape", "min", "max", *(["headroom"] if widened else []), *compared, f"{compared[0]} cuts off")
    for column in headings:
        table.add_column(column, justify="right")
    for tensor, histogram in found.histograms.items():
        shape = "x".join(map(str, found.shapes[tensor]))
        rows = [params[name][tensor] for name in compared]
        table.add_row(
            tensor,
            shape,
            f"{histogram.low:.4g}",
            f"{histogram.high:.4g}",
            *([f"{found.headroom[tensor]:.2f}x"] if widened else []),
            *(f"{row.low:.4g} .. {row.high:.4g}" for row in rows),
            f"{histogram.share_beyond(rows[0].low, rows[0].high):.2%}",
        )
    console.print(table)
    console.print(
        "`convert` takes the range of less effect on the outputs for each tensor; `--estimator` fixes one.",
        highlight=False,
    )
