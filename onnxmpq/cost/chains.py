"""Which regions may be int8 only as the continuation of an int8 chain.

onnxruntime computes int8 convolutions in NHWC and keeps that layout through the regions behind them. A pooling,
Concat or elementwise region that starts an int8 chain itself works in NCHW, where some kernels are 10 to 50 times
slower (MaxPool on uint8: 2.8 ms against 0.05 ms) and where the layout reaches regions further down. Such plans never
pay; leaving them out also leaves every region's cost a function of its own scheme and its neighbours' formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmpq.cost.table import Assignment
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.schemes import Format, Scheme, writes

Menu = Mapping[str, Sequence[Scheme]]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


def chained_regions(model: Model, ranks: dict[str, int]) -> frozenset[str]:
    """Names of regions without weights that read feature maps: convolution results, or what was made of them.

    ranks: tensor -> number of dimensions; a tensor stays a feature map while its rank does.
    """
    maps: dict[str, int] = {}
    chained = set()
    for region in model.regions:
        sources = [maps[t] for t in region.inputs if t in maps]
        if region.kind is RegionKind.LAYER:
            if region.op_type in _CONVOLUTIONS:
                maps.update({t: ranks.get(t, 0) for t in region.outputs})
        elif region.kind in (RegionKind.ARITHMETIC, RegionKind.PASSTHROUGH) and sources:
            chained.add(region.name)
            maps.update({t: ranks[t] for t in region.outputs if ranks.get(t, 0) == sources[0]})
    return frozenset(chained)


def legalize(model: Model, chained: frozenset[str], plan: Assignment, menu: Menu) -> dict[str, Scheme]:
    """The plan that the runtime would really execute.

    Chained int8 regions without an int8 chain before them go back to float, and so does whatever reads a chained
    float region that only moves values: onnxruntime would carry the QuantizeLinear up through it and start the chain
    there. A float region that stands between int8 on all sides, or that moves values that are int8 anyway, becomes
    int8: the optimiser fuses or moves the Q/DQ around it.
    """
    legal: dict[str, Scheme] = {}
    producers, consumers, outputs = model.producers, model.consumers, set(model.output_names)

    def written(tensor: str) -> bool:
        producer = producers.get(tensor)
        scheme = legal.get(producer.name) if producer else None
        return producer is not None and scheme is not None and writes(scheme, producer.op_type) is Format.INT8

    def all_readers_int8(tensor: str) -> bool:
        wishes = [plan.get(r.name) for r in consumers.get(tensor, [])]
        return bool(wishes) and tensor not in outputs and all(w and w.reads is Format.INT8 for w in wishes)

    def behind_float_move(tensor: str) -> bool:
        producer = producers.get(tensor)
        return producer is not None and moves_maps(producer, chained) and producer.name not in legal

    for region in model.regions:
        scheme = plan.get(region.name)
        chain = bool(region.inputs) and all(written(t) for t in region.inputs)
        if scheme is not None and scheme.reads is Format.INT8:
            if (region.name in chained and not chain) or any(behind_float_move(t) for t in region.inputs):
                scheme = None
        elif region.kind is RegionKind.PASSTHROUGH or region.kind is RegionKind.ARITHMETIC:
            surrounded = all(map(all_readers_int8, region.outputs))
            moves = region.kind is RegionKind.PASSTHROUGH
            if (chain and (moves or surrounded)) or (moves and surrounded and region.name not in chained):
                scheme = next((s for s in menu.get(region.name, ()) if s.reads is Format.INT8), scheme)
        if scheme is not None:
            legal[region.name] = scheme
    return legal


def moves_maps(region: Region, chained: frozenset[str]) -> bool:
    """A region that moves the values of a feature map without computing."""
    return region.kind is RegionKind.PASSTHROUGH and region.name in chained
