"""Rules by which a runtime continues or breaks chains of quantized regions, and by which it lays out feature maps.

They are data about one model: the runtime makes them, the solver takes them as constraints, and `cost.legalize` brings
a plan in line with them. Nothing but the runtime knows why they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from onnxmpq.model import Model, Region, RegionKind

STARTS = "starts"  # works in the runtime's own layout where it writes a quantized format
FOLLOWS = "follows"  # works in that layout where everything that it reads comes in it
Layout = Mapping[str, str]
"""Region -> one of these; regions without a role work in the layout of the graph."""


class State(StrEnum):
    """A property of a region under a plan."""

    READS = "reads"  # a quantized format
    WRITES = "writes"  # a quantized format
    LAID_OUT = "laid_out"  # works in the runtime's own layout


@dataclass(frozen=True)
class Fact:
    """A region is in a state."""

    state: State
    region: str


@dataclass(frozen=True)
class Requires:
    """A region may read a quantized format only where one of these facts holds; never where there are none."""

    region: str
    any_of: tuple[Fact, ...]


@dataclass(frozen=True)
class Becomes:
    """The runtime makes a region quantized where all of these facts hold and its menu has such a scheme."""

    region: str
    all_of: tuple[Fact, ...]


@dataclass(frozen=True)
class Rules:
    """layout: roles of regions in the layout of feature maps. chains: in the order of the graph. together: groups of
    regions that have one scheme, since the runtime merges them."""

    layout: Layout = field(default_factory=dict)
    chains: tuple[Requires | Becomes, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()


def plain_rules(model: Model) -> Rules:
    """Rules of a runtime that has one layout: between quantized regions, whatever can be quantized is."""
    neighbours = Neighbours.of(model)
    return Rules(chains=tuple(rule for r in model.regions for rule in surrounded(r, neighbours)))


@dataclass(frozen=True)
class Neighbours:
    """The regions around a region."""

    producers: Mapping[str, Region]
    consumers: Mapping[str, list[Region]]
    outputs: frozenset[str]

    @classmethod
    def of(cls, model: Model) -> Neighbours:
        return cls(model.producers, model.consumers, frozenset(model.output_names))

    def sources(self, region: Region) -> tuple[Fact, ...]:
        """Facts that each input computed by a region is written in a quantized format."""
        return tuple(Fact(State.WRITES, p.name) for t in region.inputs if (p := self.producers.get(t)))

    def readers(self, region: Region) -> tuple[Fact, ...]:
        """Facts that each reader of its outputs reads a quantized format."""
        return tuple(Fact(State.READS, c.name) for t in region.outputs for c in self.consumers.get(t, ()))

    def is_inner(self, region: Region) -> bool:
        """Other regions read all that a region writes, and the model does not hand it out."""
        return bool(self.readers(region)) and not self.outputs.intersection(region.outputs)

    def reads_inner(self, region: Region) -> bool:
        """Regions compute all that a region reads."""
        return all(t in self.producers for t in region.inputs)


def surrounded(region: Region, near: Neighbours, *, place: tuple[Fact, ...] = ()) -> Iterator[Becomes]:
    """Rules of a region without weights between quantized ones: a runtime moves Q/DQ through a region that only moves
    values, and fuses them around one that it computes in 8 bits.

    place: facts about where the region works, that must hold too; a region with such facts does not start a chain.
    """
    sources, readers = near.sources(region), near.readers(region)
    if region.kind is RegionKind.PASSTHROUGH:
        if near.reads_inner(region):
            yield Becomes(region.name, (*sources, *place))
        if near.is_inner(region) and not place:
            yield Becomes(region.name, readers)
    elif region.kind is RegionKind.ARITHMETIC and near.is_inner(region) and near.reads_inner(region):
        yield Becomes(region.name, (*sources, *readers, *place))
