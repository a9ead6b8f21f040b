"""Owners: the region that a node of a written graph belongs to, or was written for.

Nodes of the source keep their names. A new node belongs to the source's node whose result it stands in for, if a tensor
of the source's name comes out of it (a pair behind a region that writes codes), else to the one that reads its result
(a pair or a cast in front of a region, the nodes that unfold a weight).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxmpq.lint import Graph, graphs, label
from onnxmpq.model import Region


class Owners:
    """Regions by node of a written graph."""

    def __init__(self, proto: onnx.ModelProto, source: onnx.ModelProto, regions: Sequence[Region]) -> None:
        self.regions = {node: r.name for r in regions for node in r.nodes}
        self.old = {n.name for n in source.graph.node if n.name}
        self.made_by = {t: n.name for n in source.graph.node for t in n.output if t}
        self.graph: Graph = graphs(proto)[0]
        self.nodes = {label(n): n for n in self.graph.nodes}

    def of(self, node: str) -> str:
        """Region of a node, or the node of the source it belongs to; "" where neither can be told."""
        found = self._source_node(node)
        return self.regions.get(found, "" if self.regions else found)

    def _source_node(self, name: str) -> str:
        if name in self.old:
            return name
        seen, waiting = {name}, [name]
        while waiting:
            node = self.nodes.get(waiting.pop(0))
            for tensor in node.output if node is not None else ():
                if tensor in self.made_by:
                    return str(self.made_by[tensor])
                for use in self.graph.uses.get(tensor, ()):
                    if use.node.name in self.old:
                        return str(use.node.name)
                    if label(use.node) not in seen:
                        seen.add(label(use.node))
                        waiting.append(label(use.node))
        return ""
