"""The layout of feature maps under a plan, by a runtime's roles: it travels from region to region, it is not local."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from onnxmpq.model import Model, Region
from onnxmpq.runtimes import FOLLOWS, STARTS, Layout
from onnxmpq.schemes import Scheme, writes


@dataclass(frozen=True)
class Layouts:
    """Regions that work in the runtime's own layout under an assignment."""

    model: Model
    roles: Layout
    assignment: Mapping[str, Scheme]

    @cached_property
    def _laid_out(self) -> frozenset[str]:
        producers, found = self.model.producers, set[str]()
        for region in self.model.regions:
            if laid_out(region, self.roles, self.assignment.get(region.name), producers, found):
                found.add(region.name)
        return frozenset(found)

    def change(self, producer: str | None, consumer: str | None) -> str:
        """Change of layout of a tensor on an edge: "into_layout", "out_of_layout", or nothing ("")."""
        before, after = producer in self._laid_out, consumer in self._laid_out
        if before is after:
            return ""
        return "into_layout" if after else "out_of_layout"


def laid_out(
    region: Region,
    roles: Layout,
    scheme: Scheme | None,
    producers: Mapping[str, Region],
    before: Collection[str],
) -> bool:
    """True if a region works in the runtime's own layout. before: those that do, earlier in the graph."""
    role = roles.get(region.name)
    if role == STARTS:
        return scheme is not None and writes(scheme, region.op_type).quantized
    sources = [producers.get(t) for t in region.inputs]
    return role == FOLLOWS and bool(sources) and all(p is not None and p.name in before for p in sources)
