"""From the kernels of an optimised graph back to regions and tensors, though the runtime fuses and renames.

The dialect keeps the prepared graph's tensor names (with suffixes such as `/q`), and onnxruntime derives new node
and tensor names from old ones, so the longest known name that begins a kernel's output or node name identifies it.
Kernels that only move data (quantize, dequantize, reorder, transpose that was not in the model) carry generated
names; they belong to the tensor that flows through them, found by walking up to the kernel that computed it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import onnx

from onnxmpq.model import Model

MOVERS = frozenset({"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Transpose", "Cast"})
_BOUNDARY = frozenset("_/:")


@dataclass(frozen=True)
class Attribution:
    """regions: kernel node name -> region name. tensors: mover node name -> (tensor it moves, its readers)."""

    regions: dict[str, str]
    tensors: dict[str, str]
    operators: dict[str, frozenset[str]]  # region -> operator types of its kernels


def attribute(model: Model, optimized: onnx.ModelProto) -> Attribution:
    """Assign every kernel of the optimised graph to a region or to a tensor; unknown ones to neither."""
    names = _Names(model)
    producer = {t: n for n in optimized.graph.node for t in n.output}
    regions: dict[str, str] = {}
    tensors: dict[str, str] = {}
    operators: dict[str, set[str]] = defaultdict(set)
    movers = []
    for node in optimized.graph.node:
        region = names.region_of(node)
        if region is None and node.op_type in MOVERS:
            movers.append(node)
        elif region is not None:
            regions[node.name] = region
            operators[region].add(node.op_type)
    for node in movers:
        tensor = names.tensor_behind(node, producer, regions)
        if tensor is not None:
            tensors[node.name] = tensor
        elif reader := _reader(node, optimized, regions):  # a weight that is unfolded at every run
            regions[node.name] = reader
            operators[reader].add(node.op_type)
    return Attribution(regions, tensors, {r: frozenset(o) for r, o in operators.items()})


def _reader(mover: onnx.NodeProto, optimized: onnx.ModelProto, regions: dict[str, str]) -> str | None:
    """The region of the kernel that reads what a mover makes."""
    made = set(mover.output)
    return next((regions[n.name] for n in optimized.graph.node if n.name in regions and made & set(n.input)), None)


class _Names:
    def __init__(self, model: Model) -> None:
        self.model = model
        by_name = {r.name: r for r in model.regions}
        self.region_by_node = {n: r.name for r in model.regions for n in r.nodes}
        self.op_by_node = {n.name: n.op_type for n in model.structure.graph.node}
        self.region_by_tensor: dict[str, str] = {}
        nodes = {n.name: n for n in model.structure.graph.node}
        for region in model.regions:
            for node_name in region.nodes:
                for tensor in nodes[node_name].output:
                    self.region_by_tensor[tensor] = region.name
        self.float_tensors = {t for r in model.regions for t in (*r.inputs, *r.outputs)}
        self.first_output = {name: region.outputs[0] for name, region in by_name.items() if region.outputs}

    def region_of(self, node: onnx.NodeProto) -> str | None:
        """The region a compute kernel belongs to; None for movers that no node of the model asked for."""
        original = self._longest(node.name, self.region_by_node)
        if node.op_type in MOVERS:
            is_own = original is not None and self.op_by_node[original] == node.op_type
            return self.region_by_node[original] if is_own and original else None
        for output in node.output:
            tensor = self._longest(output, self.region_by_tensor)
            if tensor is not None:
                return self.region_by_tensor[tensor]
        tensor = self._longest(node.name, self.region_by_tensor)
        candidates = [c for c in (original, tensor) if c is not None]
        if not candidates:
            return None
        best = max(candidates, key=len)
        return self.region_by_node[best] if best == original else self.region_by_tensor[best]

    def tensor_behind(
        self, node: onnx.NodeProto, producer: dict[str, onnx.NodeProto], regions: dict[str, str]
    ) -> str | None:
        """The tensor that a mover moves: by name, else the output of the first kernel above it."""
        for name in (*node.output, *node.input[:1], node.name):
            tensor = self._longest(name, dict.fromkeys(self.float_tensors, ""))
            if tensor is not None:
                return tensor
        above = producer.get(node.input[0])
        if above is None:
            return None
        if above.name in regions:
            return self.first_output.get(regions[above.name])
        return self.tensor_behind(above, producer, regions)

    @staticmethod
    def _longest(name: str, known: dict[str, str]) -> str | None:
        """The longest known name that `name` equals or continues after a separator."""
        if name in known:
            return name
        for end in range(len(name) - 1, 0, -1):
            if name[end] in _BOUNDARY and name[:end] in known:
                return name[:end]
        return None
