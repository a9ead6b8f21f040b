"""Sensitivities alone: `onnxmpq sensitivity`, without timing anything and without a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxmpq.allocate import pose
from onnxmpq.cache import Cache
from onnxmpq.context import Context
from onnxmpq.cost import CostTable
from onnxmpq.feeds import Recipe
from onnxmpq.files import Rows
from onnxmpq.isolation import isolated
from onnxmpq.menu import (
    bounded_activations,
    observed_tensors,
    one_activation_format,
    require_candidates,
    weight_formats,
    within_float16,
    without_underflow,
)
from onnxmpq.opening import open_model, open_target
from onnxmpq.progress import Progress
from onnxmpq.ranges import observe_ranges
from onnxmpq.report import left_out, sensitivity_rows
from onnxmpq.request import DEFAULT_SAMPLES, Request, Source, accepts, documents, require_source
from onnxmpq.sensitivity import OutputKind, effects_of_menu
from onnxmpq.threads import with_one_blas_thread
from onnxmpq.weights import Techniques, round_for_inputs
from onnxmpq.workbench import prepare_bench


@accepts
@documents(Request)
@with_one_blas_thread
@isolated()
def measure_sensitivity(
    model: Source,
    *,
    calibration: Any = None,
    recipe: str | Recipe | None = None,
    target: str = "cpu",
    samples: int = DEFAULT_SAMPLES,
    exclude: Iterable[str] = (),
    schemes: Iterable[str] = (),
    outputs: Mapping[str, OutputKind] | None = None,
    cache: str | Path | bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rows:
    """The effect on the outputs of each region in each scheme that the target lists, one at a time.

    Arguments are those of `convert`. Weights are rounded for the samples, channels are not rescaled, and nothing is
    timed, so that what the runtime does not fuse here is still on the menu. Columns: see `tables.sensitivity_rows`;
    `latency_ms` and `chosen` are None. Raises the families of `onnxmpq.errors`.
    """
    require_source(model)
    heard = progress or Progress()
    context = Context(heard, Cache.of(cache, heard), seed)
    names, patterns = (tuple([v] if isinstance(v, str) else v) for v in (schemes, exclude))
    opened, data = open_model(model, open_target(target)).with_samples(calibration, recipe, samples, context)
    prepared, listed = opened.model, opened.menu(patterns, names)
    offered = one_activation_format(prepared, listed)
    require_candidates(prepared, offered, bool(patterns))
    observation = observe_ranges(prepared, observed_tensors(prepared, offered), data.calibration, context)
    bounded = bounded_activations(prepared, offered, observation.histograms)
    representable = within_float16(prepared, bounded, observation.histograms)
    bench = prepare_bench(prepared, representable, observation, opened.dialect, context)
    menu = without_underflow(prepared, representable, bench.weights)
    require_candidates(prepared, menu)
    formats = weight_formats(prepared, menu)
    rounded = bench.with_weights(round_for_inputs(prepared, formats, data.rounding, Techniques(), context))
    effects = effects_of_menu(prepared, menu, rounded, observation, data.effects, outputs, context)
    untimed = CostTable({name: {s.kernel: 0.0 for s in row} for name, row in menu.items()})
    dropped = left_out(
        [
            ("", opened.menu()),
            ("excluded, or not among the schemes that were asked for", listed),
            ("another format of activations reaches more of the model", offered),
            ("a tensor holds NaN or infinity", bounded),
            ("values do not fit 16 bits", representable),
            ("weights underflow", menu),
        ]
    )
    return sensitivity_rows(pose(prepared, menu, untimed, effects, rounded.weights), dropped, {}, timed=False)
