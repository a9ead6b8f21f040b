"""Cutting a graph: the part behind a tensor, with every other tensor it needs as an input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.model.regions import GraphIndex

_FLOAT_TENSOR = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)


@dataclass(frozen=True)
class Part:
    """A subgraph as a model of its own. inputs: tensors it must be fed."""

    proto: onnx.ModelProto
    inputs: tuple[str, ...]


class Cutter:
    """Cuts one prepared graph; knows the types of its tensors."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.index = GraphIndex(proto)
        inferred = onnx.shape_inference.infer_shapes(proto).graph
        self._position = {t: i for i, n in enumerate(self.index.nodes) for t in n.output}
        self.infos: dict[str, onnx.ValueInfoProto] = {
            v.name: v for v in (*inferred.input, *inferred.output, *inferred.value_info)
        }

    def position(self, tensor: str) -> int:
        """Index of the node that makes a tensor; -1 for inputs of the graph."""
        return self._position.get(tensor, -1)

    def after(self, checkpoint: int) -> Part:
        """The nodes from index `checkpoint` on, with all graph outputs they make."""
        nodes = self.index.nodes[checkpoint:]
        made = {t for n in nodes for t in n.output}
        return self._part(nodes, [o.name for o in self.proto.graph.output if o.name in made], set())

    def between(self, tensor: str, checkpoint: int, live: Iterable[str]) -> Part:
        """The nodes before `checkpoint` that `tensor` reaches, up to the live tensors and graph outputs they make."""
        affected = {tensor}
        nodes = []
        for node in self.index.nodes[:checkpoint]:
            if any(t in affected for t in self._reads(node)):
                affected.update(node.output)
                nodes.append(node)
        made = {t for n in nodes for t in n.output}
        wanted = dict.fromkeys((*live, *(o.name for o in self.proto.graph.output)))
        return self._part(nodes, [t for t in wanted if t in made], {tensor} if nodes else set())

    def segment(self, start: int, stop: int, outputs: Sequence[str]) -> Part:
        """The nodes from index `start` up to `stop`, as far as these tensors need them."""
        needed, nodes = set(outputs), []
        for node in reversed(self.index.nodes[start:stop]):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(self._reads(node))
        made = {t for n in nodes for t in n.output}
        return self._part(nodes[::-1], [t for t in outputs if t in made], set())

    def live(self, checkpoint: int) -> list[str]:
        """Computed tensors from before index `checkpoint` that nodes from there on read."""
        later = self.index.nodes[checkpoint:]
        read = dict.fromkeys(t for n in later for t in self._reads(n))
        return [t for t in read if 0 <= self.position(t) < checkpoint]

    def set_constant(self, name: str, values: NDArray[np.generic]) -> None:
        """Another value for an initializer, in all parts cut from now on."""
        self.index.constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)

    def only(self, names: Sequence[str], outputs: Sequence[str], as_inputs: Iterable[str] = ()) -> Part:
        """These nodes alone; initializers in `as_inputs` become inputs."""
        wanted = set(names)
        return self._part([n for n in self.index.nodes if n.name in wanted], list(outputs), set(as_inputs))

    def _part(self, nodes: list[onnx.NodeProto], outputs: list[str], forced: set[str]) -> Part:
        made = {t for n in nodes for t in n.output} - forced
        read = dict.fromkeys(t for n in nodes for t in self._reads(n) if t)
        constants = self.index.constants
        inputs = [t for t in (*forced, *read) if t not in made and (t in forced or t not in constants)]
        inputs = list(dict.fromkeys(inputs))
        part = onnx.ModelProto(ir_version=self.proto.ir_version, opset_import=self.proto.opset_import)
        part.graph.name = "part"
        part.graph.node.extend(nodes)
        part.graph.initializer.extend(constants[t] for t in read if t in constants and t not in forced)
        part.graph.input.extend(self._info(t) for t in inputs)
        part.graph.output.extend(onnx.ValueInfoProto(name=t) for t in outputs)
        return Part(part, tuple(inputs))

    @staticmethod
    def _reads(node: onnx.NodeProto) -> list[str]:
        inner = [t for a in node.attribute for g in (a.g, *a.graphs) for n in g.node for t in n.input]
        return [*node.input, *inner]

    def _info(self, tensor: str) -> onnx.ValueInfoProto:
        if tensor in self.infos:
            return self.infos[tensor]
        if tensor in self.index.constants:
            constant = self.index.constants[tensor]
            shaped = onnx.helper.make_tensor_type_proto(constant.data_type, list(constant.dims))
            return onnx.ValueInfoProto(name=tensor, type=shaped)
        return onnx.ValueInfoProto(name=tensor, type=_FLOAT_TENSOR)
