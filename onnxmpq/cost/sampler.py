"""Which plans to profile: the uniform ones, and mixed ones until every format change on every edge was seen.

Mixed plans copy the format of their surroundings with a high probability, so that they consist of islands of all
sizes, as real plans do, rather than of isolated regions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxmpq.cost.chains import Menu, legalize
from onnxmpq.cost.layout import Roles
from onnxmpq.cost.table import Assignment, Edge, Formats, edges_of
from onnxmpq.model import Model
from onnxmpq.schemes import Scheme

_CANDIDATES = 24


def uniform_plans(model: Model, menu: Menu, layout: Roles) -> Iterator[dict[str, Scheme]]:
    """Everything in fp32; every kernel wherever it is offered; int8 for layers only."""
    yield {}
    kernels = dict.fromkeys(s.kernel for schemes in menu.values() for s in schemes if s.kernel != "fp32")
    for kernel in kernels:
        wanted = {r: s for r, schemes in menu.items() for s in schemes[::-1] if s.kernel == kernel}
        yield legalize(model, layout, wanted, menu)
    layers = {r.name for r in model.layers}
    int8 = {r: s for r, schemes in menu.items() for s in schemes if s.kernel == "int8" and r in layers}
    if len(int8) > 1:
        yield legalize(model, layout, int8, menu)


def mixed_plans(model: Model, menu: Menu, layout: Roles, count: int, seed: int = 0) -> Iterator[dict[str, Scheme]]:
    """`count` mixed int8/fp32 plans, each chosen among random candidates to cover what was seen least."""
    generator = np.random.default_rng(seed)
    seen: dict[tuple[str, str], int] = {}
    for _ in range(count):
        candidates = [random_plan(model, menu, layout, generator) for _ in range(_CANDIDATES)]
        best = max(candidates, key=lambda plan: _novelty(model, plan, seen))
        for change in _changes(model, best):
            seen[change] = seen.get(change, 0) + 1
        yield best


def random_plan(
    model: Model, menu: Menu, layout: Roles, generator: np.random.Generator, persistence: float | None = None
) -> dict[str, Scheme]:
    """A plan that keeps the format of the region before it with probability `persistence`, else draws one."""
    keep = persistence if persistence is not None else float(generator.choice([0.3, 0.6, 0.85]))
    share = float(generator.choice([0.3, 0.5, 0.7]))
    producers, plan = model.producers, dict[str, Scheme]()
    for region in model.regions:
        int8 = next((s for s in menu.get(region.name, ()) if s.kernel == "int8"), None)
        before = [producers[t].name in plan for t in region.inputs if t in producers]
        wanted = bool(generator.choice(before)) if before and generator.random() < keep else generator.random() < share
        if int8 is not None and wanted:
            plan[region.name] = int8
    return legalize(model, layout, plan, menu)


def _changes(model: Model, plan: Assignment) -> list[tuple[str, str]]:
    formats = Formats(model, plan)

    def state(edge: Edge) -> str:
        return f"{formats.written(edge.producer)}>{formats.read(edge.consumer)}"

    return [(edge.key, state(edge)) for edge in edges_of(model)]


def _novelty(model: Model, plan: Assignment, seen: Mapping[tuple[str, str], int]) -> float:
    return sum(0.25 ** seen.get(change, 0) for change in _changes(model, plan))
