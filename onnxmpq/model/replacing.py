"""Replacing nodes of a graph by fewer, with what nothing reads any more taken out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmpq.model.index import GraphIndex, read_by
from onnxmpq.model.store import without_initializers
from onnxmpq.model.tidy import free_name, refill, sort_nodes


class Replacing:
    """Nodes to be added to a tidy graph, and results that they make instead of its own nodes.

    made_for: new node -> names of the nodes that it stands for.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto, self.index = proto, GraphIndex(proto)
        self.made_for: dict[str, tuple[str, ...]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._taken = {n.name for n in self.index.nodes} | self.index.producer.keys() | self.index.constants.keys()
        self._taken |= {i.name for i in proto.graph.input}
        self._replaced: set[str] = set()

    def add(self, operator: str, name: str, inputs: Sequence[str], stands_for: Sequence[str], **attributes: Any) -> str:
        """A node with one result, which has its name; a number is added where that is taken."""
        name = free_name(name, self._taken)
        self._put(helper.make_node(operator, inputs, [name], name, **attributes), stands_for)
        return name

    def replace(
        self,
        operator: str,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        stands_for: Sequence[str],
        **attributes: Any,
    ) -> None:
        """A node that makes these tensors of the graph instead of the nodes that do."""
        node = helper.make_node(operator, inputs, outputs, free_name(name, self._taken), **attributes)
        self._put(node, stands_for)
        self._replaced |= {self.index.producer[t].name for t in outputs}

    def _put(self, node: onnx.NodeProto, stands_for: Sequence[str]) -> None:
        self._nodes.append(node)
        self.made_for[node.name] = tuple(stands_for)

    def constant(self, name: str, values: Sequence[int]) -> str:
        """An int64 vector."""
        name = free_name(name, self._taken)
        self._constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def graph(self) -> onnx.ModelProto:
        """A new graph, in order. Nodes that nothing reads any more are gone, and so are their constants."""
        kept = [n for n in self.index.nodes if n.name not in self._replaced]
        reads = Counter(t for n in (*kept, *self._nodes) for t in set(read_by(n)))
        unread = [t for n in self.index.nodes if n.name in self._replaced for t in read_by(n)]
        dropped = set[str]()
        while unread:
            node = self.index.producer.get(unread.pop())
            if node is None or node.name in self._replaced | dropped:
                continue
            if any(reads[t] or t in self.index.outputs for t in node.output):
                continue
            dropped.add(node.name)
            reads.subtract(set(read_by(node)))
            unread += read_by(node)
        made = without_initializers(self.proto)
        refill(made.graph.node, [*(n for n in kept if n.name not in dropped), *self._nodes])
        before = Counter(t for n in self.index.nodes for t in read_by(n))
        constants = [t for t in self.proto.graph.initializer if reads[t.name] or not before[t.name]]
        made.graph.initializer.extend([*constants, *self._constants])
        sort_nodes(made.graph)
        return made
