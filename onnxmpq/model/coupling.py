"""Layers that a runtime may merge into one: those that read the same tensor and work on one result.

Query, key and value of an attention, gate and up of a gated MLP: they multiply the same tensor, and their results meet
before another layer reads them. Experts of a mixture read the same tensor as well; their results meet behind a second
layer each. Layers that read the same tensor for different purposes, such as attention and MLP side by side, do not
count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from onnxmpq.model.types import Model, Region

Groups = tuple[tuple[str, ...], ...]
"""Regions in graph order, in groups of two or more."""


def coupled_layers(model: Model) -> Groups:
    """Groups of layers that read the same tensor and whose results meet, in graph order."""
    reach = _Reach(model)
    families: list[tuple[Region, ...]] = []
    for layers in _by_input(model).values():
        families += _joined([(layer,) for layer in layers], reach.meet)
    experts = _experts(families, reach)
    groups = [*experts, *(f for f in families if not any(set(f) <= set(e) for e in experts))]
    place = {r.name: i for i, r in enumerate(model.regions)}
    found = (tuple(sorted((r.name for r in group), key=place.__getitem__)) for group in groups if len(group) > 1)
    return tuple(sorted(found, key=lambda names: place[names[0]]))


def _by_input(model: Model) -> dict[tuple[str, str, int], list[Region]]:
    """Layers with one weight by the tensor whose values they read, their operator, and the length of their sums."""
    found: dict[tuple[str, str, int], list[Region]] = defaultdict(list)
    for region in model.layers:
        weights = region.params.weights
        if len(weights) == 1 and len(region.inputs) == 1 and not region.params.storage_only:
            tensor = model.roots.get(region.inputs[0], region.inputs[0])
            found[tensor, region.op_type, weights[0].fan_in].append(region)
    return found


class _Reach:
    """Regions that results come to before they meet a layer, and the layers that they meet."""

    def __init__(self, model: Model) -> None:
        self.consumers = model.consumers

    def behind(self, region: Region) -> tuple[frozenset[str], tuple[Region, ...]]:
        """(regions without weights that a region's results reach, the layers behind those)."""
        inner, layers = dict[str, None](), dict[str, Region]()
        waiting = list(region.outputs)
        while waiting:
            for reader in self.consumers.get(waiting.pop(), ()):
                if reader.layer is not None:
                    layers[reader.name] = reader
                elif reader.name not in inner:
                    inner[reader.name] = None
                    waiting += reader.outputs
        return frozenset(inner), tuple(layers.values())

    def meet(self, one: Sequence[Region], other: Sequence[Region]) -> bool:
        """True where results of both reach one region without a layer between."""
        return not self._inner(one).isdisjoint(self._inner(other))

    def _inner(self, group: Sequence[Region]) -> frozenset[str]:
        return frozenset[str]().union(*(self.behind(r)[0] for r in group))

    def next_layers(self, group: Sequence[Region]) -> tuple[Region, ...]:
        """Layers that a group's results come to first."""
        return tuple(dict.fromkeys(layer for r in group for layer in self.behind(r)[1]))


def _experts(families: Sequence[tuple[Region, ...]], reach: _Reach) -> list[tuple[Region, ...]]:
    """Families of the same shapes and input, each with one second layer of the same shape, whose results meet: all of
    their first layers, and all of their second ones."""
    alike: dict[tuple[object, ...], list[tuple[Region, ...]]] = defaultdict(list)
    for family in families:
        second = reach.next_layers(family)
        if len(second) == 1:
            shapes = tuple(sorted(_shape(r) for r in family))
            alike[family[0].inputs, shapes, _shape(second[0])].append(family)
    found = []
    for group in (g for g in alike.values() if len(g) > 1):
        seconds = {family: reach.next_layers(family) for family in group}
        for joined in _joined(group, lambda a, b: reach.meet(reach.next_layers(a), reach.next_layers(b))):
            members = [family for family in group if set(family) <= set(joined)]
            if len(members) > 1:
                found += [joined, tuple(layer for family in members for layer in seconds[family])]
    return found


def _shape(region: Region) -> tuple[str, int, int]:
    weight = region.params.weights[0]
    return region.op_type, weight.out_channels, weight.fan_in


def _joined(
    groups: Sequence[tuple[Region, ...]], meet: Callable[[Sequence[Region], Sequence[Region]], bool]
) -> list[tuple[Region, ...]]:
    """The groups, those that meet as one; transitive."""
    found: list[tuple[Region, ...]] = []
    for group in groups:
        apart = [other for other in found if not meet(other, group)]
        together = [other for other in found if meet(other, group)]
        found = [*apart, tuple(r for other in (*together, group) for r in other)]
    return found
