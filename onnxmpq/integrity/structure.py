"""The structural check: every graph that this package writes passes it before it is handed out.

One table of checks, run on the written graph and on its source. What the source breaks as well is not reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx

from onnxmpq.errors import OnnxmpqError
from onnxmpq.integrity import ends, quantizers, tensors
from onnxmpq.integrity.owners import Owners
from onnxmpq.integrity.types import Check, Fault
from onnxmpq.lint import Graph, Hit, common, graphs
from onnxmpq.model import Region

_NODE_IN_MESSAGE = re.compile(r"node name: (.*?)\)|[Nn]ame: (.*?) OpType")


def _each(rule: Callable[[Graph], Iterator[Hit]]) -> Check:
    """A check of single graphs as one of all graphs of a model."""
    return lambda parts: (hit for graph in parts for hit in rule(graph))


def _valid(parts: Sequence[Graph]) -> Iterator[Hit]:
    """onnx.checker and strict shape inference accept the model; the node is read from their message."""
    for _, message in common.valid(parts[0]):
        found = _NODE_IN_MESSAGE.search(message)
        yield next((g for g in found.groups() if g), "") if found else "", message


CHECKS: Mapping[str, Check] = {
    "valid": _valid,
    "opset": _each(common.opset),
    "tensor-opset": tensors.opset_holds_types,
    "ir-version": tensors.ir_version,
    "domains": tensors.domains,
    "node-names": tensors.node_names,
    "tensor-names": tensors.tensor_names,
    "dangling": tensors.dangling,
    "dead-nodes": tensors.dead_nodes,
    "unused-initializers": tensors.unused_initializers,
    "order": tensors.order,
    "stored": tensors.stored,
    "value-info": tensors.value_info,
    "pairs": _each(quantizers.pairs),
    "scale-values": _each(quantizers.scale_values),
    "scale-types": _each(quantizers.scale_types),
    "scale-shapes": _each(common.scale_count),
    "zero-point-shapes": _each(quantizers.zero_point_shapes),
}


def structure_faults(
    proto: onnx.ModelProto, source: onnx.ModelProto, regions: Sequence[Region] = (), *, keep_io: bool = True
) -> list[Fault]:
    """Structural faults of a graph written from `source`; empty if it is whole. Neither model is changed.

    source: the graph it was written from (`Model.proto`), or the user's original. regions: of the source, to name the
    region of each fault; without them `Fault.region` is the source's node that the faulty node belongs to.
    keep_io: False if inputs and outputs may have become 16 bits wide.
    Never raises for the graph, however damaged it is.
    """
    owners = Owners(proto, source, regions)
    faults = [Fault(check, node, owners.of(node), message) for check, node, message in _fresh(proto, source)]
    for check, hits in (
        ("inputs", ends.inputs(proto, source, keep_io)),
        ("outputs", ends.outputs(proto, source, keep_io)),
        ("metadata", ends.metadata(proto, source)),
    ):
        faults += [Fault(check, node, owners.of(node), message) for node, message in hits]
    return faults


def require_whole(
    proto: onnx.ModelProto, source: onnx.ModelProto, regions: Sequence[Region] = (), *, keep_io: bool = True
) -> None:
    """Raises OnnxmpqError for the first structural fault: the rewriter is wrong then, not the user."""
    faults = structure_faults(proto, source, regions, keep_io=keep_io)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise OnnxmpqError(f"the converted graph is damaged: {faults[0]}{more}; this is a fault of onnxmpq, report it")


def _fresh(proto: onnx.ModelProto, source: onnx.ModelProto) -> Iterator[tuple[str, str, str]]:
    """(check, node, message) of the written graph, without what the source breaks at the same node."""
    written, before = graphs(proto), graphs(source)
    for name, check in CHECKS.items():
        found = list(check(written))
        known = {_key(*hit) for hit in check(before)} if found else set()
        yield from ((name, *hit) for hit in found if _key(*hit) not in known)


def _key(node: str, message: str) -> str:
    return node or message
