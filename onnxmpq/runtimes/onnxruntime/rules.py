"""Rules of onnxruntime's CPU provider: the layout of feature maps, and where chains of int8 regions may start.

int8 convolutions work in NHWC. Elementwise, pooling and joining regions behind them, in int8 or float, stay in NHWC
as long as everything they read comes in NHWC; one input in another layout makes them work in NCHW, with a transpose
(in float with DequantizeLinear and QuantizeLinear around it) on every edge where the layouts meet. So what a residual
Add costs depends on how its branches began, perhaps many regions earlier: the layout travels, it is not local.

A pooling, Concat or elementwise region that starts an int8 chain itself works in NCHW, where some kernels are 10 to 50
times slower (MaxPool on uint8: 2.8 ms against 0.05 ms) and where the layout reaches regions further down. Such plans
never pay; leaving them out also leaves every region's cost a function of its own scheme and its neighbours' formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.runtimes.rules import (
    FOLLOWS,
    STARTS,
    Becomes,
    Fact,
    Layout,
    Neighbours,
    Requires,
    Rules,
    State,
    surrounded,
)

_FLOAT_FOLLOWERS = frozenset(
    {"Pad", "Relu", "Clip", "Tanh", "HardSwish", "HardSigmoid", "Elu", "PRelu", "LeakyRelu", "Mish", "Sigmoid"}
    | {"Add", "Sub", "Mul", "Div", "Sqrt", "Exp", "Erf", "Pow", "Neg", "Abs", "Min", "Max"}
)


def rules(model: Model, ranks: Mapping[str, int]) -> Rules:
    """The rules for one model. ranks: tensor -> number of dimensions."""
    layout, near = layout_roles(model, ranks), Neighbours.of(model)
    return Rules(layout, tuple(rule for region in model.regions for rule in _chains(region, layout, near)))


def layout_roles(model: Model, ranks: Mapping[str, int]) -> dict[str, str]:
    """Roles of all regions on feature maps: convolutions, and what reads their results without changing the rank."""
    maps: dict[str, int] = {}
    roles: dict[str, str] = {}
    for region in model.regions:
        sources = [maps[t] for t in region.inputs if t in maps]
        if region.layer is not None and region.operator.convolves:
            roles[region.name] = STARTS
            maps.update({t: ranks.get(t, 0) for t in region.outputs})
        elif sources and _may_follow(region):
            roles[region.name] = FOLLOWS
            maps.update({t: ranks[t] for t in region.outputs if ranks.get(t, 0) == sources[0]})
    return roles


def _may_follow(region: Region) -> bool:
    if region.kind is RegionKind.FLOAT:
        return region.op_type in _FLOAT_FOLLOWERS
    return region.kind is not RegionKind.LAYER and region.op_type not in ("Transpose", "MatMul")


def is_chained(region: Region, layout: Layout) -> bool:
    """A region that could be int8, has no weights, and reads feature maps: int8 only as the continuation of a chain."""
    return region.kind in (RegionKind.ARITHMETIC, RegionKind.PASSTHROUGH) and layout.get(region.name) == FOLLOWS


def moves_maps(region: Region, layout: Layout) -> bool:
    """A region that moves the values of a feature map without computing."""
    return region.kind is RegionKind.PASSTHROUGH and layout.get(region.name) == FOLLOWS


def _chains(region: Region, layout: Layout, near: Neighbours) -> Iterator[Requires | Becomes]:
    """Rules of one region, and of those that read it.

    A float region that only moves a feature map keeps its readers in float: onnxruntime would carry their
    QuantizeLinear up through it and start the chain there.
    """
    place = (Fact(State.LAID_OUT, region.name),) if is_chained(region, layout) else ()
    if place:
        yield Requires(region.name, place)
        yield Requires(region.name, near.sources(region))
    if moves_maps(region, layout):
        own = (Fact(State.READS, region.name),)
        yield from (Requires(reader.region, own) for reader in near.readers(region))
    yield from surrounded(region, near, place=place)
