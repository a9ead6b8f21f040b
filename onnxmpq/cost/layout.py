"""Memory layout of feature maps, as onnxruntime's transpose optimiser leaves it.

int8 convolutions work in NHWC. Elementwise, pooling and joining regions behind them, in int8 or float, stay in NHWC
as long as everything they read comes in NHWC; one input in another layout makes them work in NCHW, with a transpose
(in float with DequantizeLinear and QuantizeLinear around it) on every edge where the layouts meet. So what a residual
Add costs depends on how its branches began, perhaps many regions earlier: the layout travels, it is not local.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.schemes import Format, Scheme, writes

CONVOLUTION = "convolution"  # NHWC where int8
FOLLOWS = "follows"  # NHWC where all inputs are
Roles = Mapping[str, str]  # region -> one of these; regions without a role work in the model's own layout

_FLOAT_FOLLOWERS = frozenset(
    {"Pad", "Relu", "Clip", "Tanh", "HardSwish", "HardSigmoid", "Elu", "PRelu", "LeakyRelu", "Mish", "Sigmoid"}
    | {"Add", "Sub", "Mul", "Div", "Sqrt", "Exp", "Erf", "Pow", "Neg", "Abs", "Min", "Max"}
)


def layout_roles(model: Model, ranks: Mapping[str, int]) -> dict[str, str]:
    """Roles of all regions on feature maps: convolutions, and what reads their results without changing the rank.

    ranks: tensor -> number of dimensions.
    """
    maps: dict[str, int] = {}
    roles: dict[str, str] = {}
    for region in model.regions:
        sources = [maps[t] for t in region.inputs if t in maps]
        if region.layer is not None and region.operator.convolves:
            roles[region.name] = CONVOLUTION
            maps.update({t: ranks.get(t, 0) for t in region.outputs})
        elif sources and _may_follow(region):
            roles[region.name] = FOLLOWS
            maps.update({t: ranks[t] for t in region.outputs if ranks.get(t, 0) == sources[0]})
    return roles


def _may_follow(region: Region) -> bool:
    if region.kind is RegionKind.FLOAT:
        return region.op_type in _FLOAT_FOLLOWERS
    return region.kind is not RegionKind.LAYER and region.op_type not in ("Transpose", "MatMul")


@dataclass(frozen=True)
class Layouts:
    """Regions that work in NHWC under an assignment."""

    model: Model
    roles: Roles
    assignment: Mapping[str, Scheme]

    @cached_property
    def _nhwc(self) -> frozenset[str]:
        producers, found = self.model.producers, set[str]()
        for region in self.model.regions:
            role, scheme = self.roles.get(region.name), self.assignment.get(region.name)
            if role == CONVOLUTION:
                inside = scheme is not None and writes(scheme, region.op_type) is Format.INT8
            elif role == FOLLOWS:
                before = [producers.get(t) for t in region.inputs]
                inside = all(p is not None and p.name in found for p in before)
            else:
                inside = False
            if inside:
                found.add(region.name)
        return frozenset(found)

    def change(self, producer: str | None, consumer: str | None) -> str:
        """Layout change of a tensor on an edge: "to_nhwc", "to_nchw", or nothing ("")."""
        before, after = producer in self._nhwc, consumer in self._nhwc
        if before is after:
            return ""
        return "to_nhwc" if after else "to_nchw"
