"""Plans to profile: the uniform ones, and mixed ones until every format change on every edge was seen.

Mixed plans copy the format of their surroundings with a high probability, so that they consist of islands of all
sizes, as real plans do, rather than of isolated regions only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from onnxmpq.cost.chains import Menu, legalize
from onnxmpq.cost.table import Assignment, Edge, Formats, edges_of
from onnxmpq.model import Model
from onnxmpq.runtimes import Rules
from onnxmpq.schemes import FP32, Scheme

_CANDIDATES = 24


def uniform_plans(model: Model, menu: Menu, rules: Rules) -> Iterator[dict[str, Scheme]]:
    """Everything in fp32; every kernel wherever it is offered; quantized activations for layers only."""
    yield {}
    for kernels in _side_by_side(menu):
        yield legalize(model, rules, _everywhere(menu, kernels), menu)
    quantized = {r.name: offered[0] for r in model.layers if (offered := _quantized_kernels(menu.get(r.name, ())))}
    if len(quantized) > 1:
        yield legalize(model, rules, quantized, menu)


def _side_by_side(menu: Menu) -> list[list[str]]:
    """Kernels, those together that one plan can show: of weights in blocks of different sizes, chosen by the length of
    a layer's rows, as long as no region offers two of them."""
    schemes, regions = dict[str, Scheme](), defaultdict[str, set[str]](set)
    for name, row in menu.items():
        for scheme in row:
            if scheme.kernel != FP32:
                schemes.setdefault(scheme.kernel, scheme)
                regions[scheme.kernel].add(name)
    groups: list[list[str]] = []
    for kernel, scheme in schemes.items():
        for group in groups if scheme.accuracy_level is not None else ():
            alike = _block_kernel(schemes[group[0]]) == _block_kernel(scheme)
            if alike and all(regions[kernel].isdisjoint(regions[other]) for other in group):
                group.append(kernel)
                break
        else:
            groups.append([kernel])
    return groups


def _block_kernel(scheme: Scheme) -> tuple[object, ...]:
    """Of a kernel of weights in blocks, all but their size."""
    weight = scheme.weight
    return (scheme.accuracy_level, weight and weight.bits, weight and weight.shifted)


def _everywhere(menu: Menu, kernels: Collection[str]) -> dict[str, Scheme]:
    """Kernels wherever one of them is offered. One of quantized activations that only some regions offer stands among
    others of them, as it does in real plans: alone, what is measured would be the transitions around it."""
    wanted = {r: s for r, schemes in menu.items() for s in schemes[::-1] if s.kernel in kernels}
    if not any(s.reads.quantized for s in wanted.values()):
        return wanted
    others = {r: offered[0] for r, schemes in menu.items() if (offered := _quantized_kernels(schemes))}
    return others | wanted


def _quantized_kernels(schemes: Sequence[Scheme]) -> list[Scheme]:
    """Of a region's schemes the first of each kernel that reads a quantized format."""
    found: dict[str, Scheme] = {}
    for scheme in schemes:
        if scheme.reads.quantized:
            found.setdefault(scheme.kernel, scheme)
    return list(found.values())


def mixed_plans(model: Model, menu: Menu, rules: Rules, count: int, seed: int = 0) -> Iterator[dict[str, Scheme]]:
    """`count` mixed plans of quantized and float32 regions, each chosen among random ones to cover what was seen
    least."""
    generator = np.random.default_rng(seed)
    seen: dict[tuple[str, str], int] = {}
    for _ in range(count):
        candidates = [random_plan(model, menu, rules, generator) for _ in range(_CANDIDATES)]
        best = max(candidates, key=lambda plan: _novelty(model, plan, seen))
        for change in _changes(model, best):
            seen[change] = seen.get(change, 0) + 1
        yield best


def random_plan(
    model: Model, menu: Menu, rules: Rules, generator: np.random.Generator, persistence: float | None = None
) -> dict[str, Scheme]:
    """A plan that keeps the format of the region before it with probability `persistence`, else draws one. Of several
    such kernels one is drawn."""
    keep = persistence if persistence is not None else float(generator.choice([0.3, 0.6, 0.85]))
    share = float(generator.choice([0.3, 0.5, 0.7]))
    producers, plan = model.producers, dict[str, Scheme]()
    for region in model.regions:
        offered = _quantized_kernels(menu.get(region.name, ()))
        before = [producers[t].name in plan for t in region.inputs if t in producers]
        wanted = bool(generator.choice(before)) if before and generator.random() < keep else generator.random() < share
        if offered and wanted:
            plan[region.name] = offered[0 if len(offered) == 1 else int(generator.integers(len(offered)))]
    return legalize(model, rules, plan, menu)


def _changes(model: Model, plan: Assignment) -> list[tuple[str, str]]:
    formats = Formats(model, plan)

    def state(edge: Edge) -> str:
        return f"{formats.written(edge.producer)}>{formats.read(edge.consumer)}"

    return [(edge.key, state(edge)) for edge in edges_of(model)]


def _novelty(model: Model, plan: Assignment, seen: Mapping[tuple[str, str], int]) -> float:
    return sum(0.25 ** seen.get(change, 0) for change in _changes(model, plan))
