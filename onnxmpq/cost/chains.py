"""Regions that may be int8 only as the continuation of an int8 chain.

onnxruntime computes int8 convolutions in NHWC and keeps that layout through the regions behind them. A pooling,
Concat or elementwise region that starts an int8 chain itself works in NCHW, where some kernels are 10 to 50 times
slower (MaxPool on uint8: 2.8 ms against 0.05 ms) and where the layout reaches regions further down. Such plans never
pay; leaving them out also leaves every region's cost a function of its own scheme and its neighbours' formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmpq.cost.layout import CONVOLUTION, FOLLOWS, Roles
from onnxmpq.cost.table import Assignment
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.schemes import Format, Scheme, writes

Menu = Mapping[str, Sequence[Scheme]]


def legalize(model: Model, roles: Roles, plan: Assignment, menu: Menu) -> dict[str, Scheme]:
    """The plan that the runtime would really execute.

    Chained int8 regions without an int8 chain in NHWC before them go back to float, and so does whatever reads a
    chained float region that only moves values: onnxruntime would carry the QuantizeLinear up through it and start
    the chain there. A float region that stands between int8 on all sides, or that moves values that are int8 anyway,
    becomes int8: the optimiser fuses or moves the Q/DQ around it.
    """
    return _Legal(model, roles, plan, menu).assignment


def is_chained(region: Region, roles: Roles) -> bool:
    """A region that could be int8, has no weights, and reads feature maps."""
    return region.kind in (RegionKind.ARITHMETIC, RegionKind.PASSTHROUGH) and roles.get(region.name) == FOLLOWS


def moves_maps(region: Region, roles: Roles) -> bool:
    """A region that moves the values of a feature map without computing."""
    return region.kind is RegionKind.PASSTHROUGH and roles.get(region.name) == FOLLOWS


class _Legal:
    """One pass in graph order; what stands before a region is settled when the region is looked at."""

    def __init__(self, model: Model, roles: Roles, plan: Assignment, menu: Menu) -> None:
        self.model, self.roles, self.plan, self.menu = model, roles, plan, menu
        self.producers, self.consumers = model.producers, model.consumers
        self.outputs = set(model.output_names)
        self.nhwc: set[str] = set()
        self.assignment: dict[str, Scheme] = {}
        for region in model.regions:
            scheme = self._settle(region)
            if scheme is not None:
                self.assignment[region.name] = scheme
            if self._works_in_nhwc(region, scheme):
                self.nhwc.add(region.name)

    def _settle(self, region: Region) -> Scheme | None:
        scheme = self.plan.get(region.name)
        written = [self._written(t) for t in region.inputs]
        if scheme is not None and scheme.reads is Format.INT8:
            chain = any(written) and (self._all_in_nhwc(region) or not is_chained(region, self.roles))
            if (is_chained(region, self.roles) and not chain) or any(map(self._behind_float_move, region.inputs)):
                return None
            return scheme
        if region.kind not in (RegionKind.PASSTHROUGH, RegionKind.ARITHMETIC):
            return scheme
        surrounded = all(map(self._all_readers_int8, region.outputs))
        moves = region.kind is RegionKind.PASSTHROUGH
        chain = bool(written) and all(written)
        may = not is_chained(region, self.roles) or self._all_in_nhwc(region)
        if (chain and may and (moves or surrounded)) or (moves and surrounded and not is_chained(region, self.roles)):
            return next((s for s in self.menu.get(region.name, ()) if s.reads is Format.INT8), scheme)
        return scheme

    def _works_in_nhwc(self, region: Region, scheme: Scheme | None) -> bool:
        role = self.roles.get(region.name)
        if role == CONVOLUTION:
            return scheme is not None and writes(scheme, region.op_type) is Format.INT8
        return role == FOLLOWS and self._all_in_nhwc(region)

    def _all_in_nhwc(self, region: Region) -> bool:
        before = [self.producers.get(t) for t in region.inputs]
        return bool(before) and all(p is not None and p.name in self.nhwc for p in before)

    def _written(self, tensor: str) -> bool:
        producer = self.producers.get(tensor)
        scheme = self.assignment.get(producer.name) if producer else None
        return producer is not None and scheme is not None and writes(scheme, producer.op_type) is Format.INT8

    def _all_readers_int8(self, tensor: str) -> bool:
        wishes = [self.plan.get(r.name) for r in self.consumers.get(tensor, [])]
        return bool(wishes) and tensor not in self.outputs and all(w and w.reads is Format.INT8 for w in wishes)

    def _behind_float_move(self, tensor: str) -> bool:
        producer = self.producers.get(tensor)
        return producer is not None and moves_maps(producer, self.roles) and producer.name not in self.assignment
