"""Costs alone: `onnxmpq profile`, for use by `convert` on this machine or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxmpq.cluster import connected
from onnxmpq.context import Context
from onnxmpq.cost import CostTable, Effort
from onnxmpq.errors import TargetError
from onnxmpq.feeds import Recipe, Share, Step, at_step, in_words, shares_of, timed_samples
from onnxmpq.isolation import isolated
from onnxmpq.menu import bounded_activations, observed_tensors, require_candidates
from onnxmpq.opening import in_step, open_model, open_target, say_timed
from onnxmpq.profiling import plan_costs
from onnxmpq.progress import Progress
from onnxmpq.ranges import observe_ranges
from onnxmpq.request import Request, Source, accepts, documents, parse_step, require_source
from onnxmpq.runtimes import SessionSettings, warn_outside
from onnxmpq.target import Target
from onnxmpq.workbench import prepare_bench

PROFILE_SAMPLES = 8  # enough for activation ranges that only have to be plausible


@accepts
@documents(Request)
@isolated()
def profile_model(
    model: Source,
    *,
    calibration: Any = None,
    recipe: str | Recipe | None = None,
    target: str = "cpu",
    provider: str | None = None,
    threads: int = 1,
    seed: int = 0,
    shape: Mapping[str, str | Sequence[int]] | None = None,
    step: Step | None = None,
    effort: Effort | None = None,
    cluster: Any = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> CostTable:
    """Measure a model's costs, for use by `convert(cost_table=...)` here or elsewhere.

    On this machine, or with `cluster` on the device of that name, where nothing else is done for it than measurements.
    """
    require_source(model)
    heard = progress or Progress()
    with connected(cluster, heard, device=device, tasks=device is None):
        return _profiled(
            model,
            open_target(target),
            calibration,
            recipe,
            provider,
            threads,
            shares_of(shape),
            parse_step(step),
            effort,
            Context(heard, seed=seed),
        )


def _profiled(
    model: Source,
    device: Target,
    calibration: Any,
    recipe: str | Recipe | None,
    provider: str | None,
    threads: int,
    shapes: Sequence[Share],
    step: Step | None,
    effort: Effort | None,
    context: Context,
) -> CostTable:
    warn_outside(context.progress.warn)
    if not device.measured:
        raise TargetError(f"target {device.name} is modelled, there is nothing to measure; profile a measured target")
    read = open_model(model, device, progress=context.progress, provider=provider)
    opened, data = read.with_samples(calibration, recipe, PROFILE_SAMPLES, context)
    prepared, feeds = opened.model, at_step(data.calibration, step)
    menu = opened.menu()
    require_candidates(prepared, menu)
    observation = observe_ranges(prepared, observed_tensors(prepared, menu), feeds, context)
    menu = bounded_activations(prepared, menu, observation.histograms)
    bench = prepare_bench(prepared, menu, observation, opened.dialect, context)
    timed = timed_samples(feeds, shapes)
    say_timed(timed, context.progress)
    settings = SessionSettings(threads=threads).on(device.runs_on(provider))
    rules = opened.rules(prepared, timed.first)
    costs, fused = plan_costs(
        prepared,
        device,
        menu,
        rules,
        bench,
        timed,
        settings,
        effort or Effort(),
        None,
        context,
        in_words(shapes) or in_step(timed),
    )
    kernels = {name: {s.kernel for s in row} | {"fp32"} for name, row in fused.items()}
    offered = {n: {k: s for k, s in row.items() if k in kernels[n]} for n, row in costs.table.node_s.items()}
    return replace(costs.table, node_s=offered)
