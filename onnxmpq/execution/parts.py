"""Cutting a graph: a part of its nodes as a model of its own, with every tensor it reads from elsewhere as an input."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.feeds import Array
from onnxmpq.model import LOCATION, GraphIndex, Region, Spelling, Spill, WeightStore, place_of, read_by, tensor_bytes
from onnxmpq.runtimes import SessionSettings, open_session, run

_FLOAT_TENSOR = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)


@dataclass(frozen=True)
class Part:
    """A subgraph as a model of its own. inputs: tensors it must be fed. make: the model, put together when it is asked
    for: many a part is cut to know what it reads. files: of constants that are its own, to be removed once a session
    has mapped them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    make: Callable[[], onnx.ModelProto]
    files: tuple[str, ...] = ()

    @property
    def proto(self) -> onnx.ModelProto:
        """The model, anew each time."""
        return self.make()


NOTHING = Part((), (), onnx.ModelProto)


class OpenPart:
    """A part ready to run; one without nodes makes nothing."""

    def __init__(self, part: Part, settings: SessionSettings) -> None:
        self.inputs = part.inputs
        self.outputs = list(part.outputs)
        settings = replace(settings, mapped=True)
        try:
            self._session = open_session(part.proto, settings) if part.outputs else None
        finally:
            for file in part.files:
                os.unlink(file)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The part's outputs, from values that hold its inputs."""
        if self._session is None:
            return {}
        return dict(zip(self.outputs, run(self._session, {t: values[t] for t in self.inputs}), strict=True))


class Cutter:
    """Cuts one graph; knows the types of its tensors.

    structure: the graph, perhaps without the values of large constants. constants: as parts get them, with values or by
    reference. spill: where those go that are made for a model that is never whole in memory; a store has its own.
    outputs: what parts at its end make: its own outputs, or other tensors in their place.
    """

    def __init__(
        self, graph: onnx.ModelProto | WeightStore, outputs: Sequence[str] | None = None, spill: Spill | None = None
    ) -> None:
        self.structure = graph.structure if isinstance(graph, WeightStore) else graph
        self.outputs = [o.name for o in self.structure.graph.output] if outputs is None else list(outputs)
        self.index = GraphIndex(self.structure)
        self._range = slice(0, len(self.index.nodes))
        self._changed: dict[str, onnx.TensorProto] = {}
        self._stored = graph.all_handed if isinstance(graph, WeightStore) else self.index.constants
        self.spill = graph.spill if isinstance(graph, WeightStore) else spill
        self.constants: Mapping[str, onnx.TensorProto] = ChainMap(self._changed, _unchanged(self._stored))
        self.nodes = {n.name: n for n in self.index.nodes}
        self._read = [read_by(n) for n in self.index.nodes]
        self._places = {n.name: i for i, n in enumerate(self.index.nodes)}
        self._position = {t: i for i, n in enumerate(self.index.nodes) for t in n.output}

    def within(self, start: int, stop: int, outputs: Sequence[str]) -> Cutter:
        """The same graph with these outputs; its `behind` and `between` see only nodes from index `start` to `stop`."""
        other = copy(self)
        other._range, other.outputs = slice(start, stop), list(outputs)
        return other

    def position(self, tensor: str) -> int:
        """Index of the node that makes a tensor; -1 for inputs of the graph."""
        return self._position.get(tensor, -1)

    def place(self, node: str) -> int:
        """Index of a node in graph order."""
        return self._places[node]

    def weight_bytes(self) -> list[int]:
        """Per node, the size of the constants that it reads."""
        constants = self.constants
        return [sum(tensor_bytes(constants[t]) for t in read if t in constants) for read in self._read]

    def behind(self, tensors: Iterable[str], checkpoint: int) -> Part:
        """The nodes from index `checkpoint` on that these tensors reach, with all outputs they make."""
        nodes = self._reached(tensors, checkpoint)
        made = {t for n in nodes for t in n.output}
        return self._part(nodes, [t for t in self.outputs if t in made], ())

    def fed(self, tensors: Iterable[str], checkpoint: int) -> set[str]:
        """The inputs of what `behind` cuts, which is not cut for it."""
        nodes = self._reached(tensors, checkpoint)
        made = {t for n in nodes for t in n.output}
        return {t for n in nodes for t in read_by(n) if t and t not in made and t not in self.constants}

    def _reached(self, tensors: Iterable[str], checkpoint: int) -> list[onnx.NodeProto]:
        return self._affected(tensors, range(self._range.start, self._range.stop), checkpoint)

    def _affected(self, tensors: Iterable[str], places: range, first: int) -> list[onnx.NodeProto]:
        """Of the nodes at these places those that the tensors reach, from place `first` on."""
        affected, nodes = set(tensors), []
        for place in places:
            if not affected.isdisjoint(self._read[place]):
                node = self.index.nodes[place]
                affected.update(node.output)
                if place >= first:
                    nodes.append(node)
        return nodes

    def between(self, tensors: Sequence[str], checkpoint: int, live: Iterable[str]) -> Part:
        """The nodes before `checkpoint` that these tensors reach, up to the live tensors and outputs they make."""
        nodes = self._affected(tensors, range(self._range.start, checkpoint), 0)
        made = {t for n in nodes for t in n.output}
        wanted = dict.fromkeys((*live, *self.outputs))
        return self._part(nodes, [t for t in wanted if t in made], tuple(tensors) if nodes else ())

    def segment(self, start: int, stop: int, outputs: Sequence[str]) -> Part:
        """The nodes from index `start` up to `stop`, as far as these tensors need them."""
        needed, nodes = set(outputs), []
        for place in reversed(range(start, min(stop, len(self.index.nodes)))):
            if not needed.isdisjoint(self.index.nodes[place].output):
                nodes.append(self.index.nodes[place])
                needed.update(self._read[place])
        made = {t for n in nodes for t in n.output}
        return self._part(nodes[::-1], [t for t in outputs if t in made], ())

    def live(self, checkpoint: int) -> list[str]:
        """Computed tensors from before index `checkpoint` that nodes from there on read."""
        read = dict.fromkeys(t for read in self._read[checkpoint:] for t in read)
        return [t for t in read if 0 <= self.position(t) < checkpoint]

    def set_constant(self, name: str, values: NDArray[np.generic]) -> None:
        """Another value for an initializer, in all parts cut from now on."""
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        self._changed[name] = tensor if self.spill is None else self.spill.put(tensor)

    def reads(self, region: Region) -> set[str]:
        """Tensors that a region's nodes read and that is computed by others or fed."""
        nodes = [self.nodes[name] for name in region.nodes]
        made = {t for n in nodes for t in n.output}
        return {t for n in nodes for t in read_by(n) if t and t not in made and t not in self.constants}

    def variants(self, region: Region, spellings: Iterable[Spelling]) -> Part:
        """A layer's nodes once for each spelling of the first, side by side on the same inputs; for each, all results
        of the region. Of a model that is never whole in memory one spelling is held at a time."""
        originals, constants = [self.nodes[name] for name in region.nodes], dict[str, onnx.TensorProto]()
        nodes: list[onnx.NodeProto] = []
        results: list[str] = []
        for spelling in spellings:  # enumerate would hold one while the next is made
            number = len(nodes) // len(originals)
            nodes += self._variant(originals, number, spelling, constants)
            results += [f"{t}/variant{number}" for t in region.outputs]
            del spelling
        files = () if self.spill is None else tuple(place_of(t)[LOCATION] for t in constants.values())
        part = self._part(nodes, results, (), constants)
        proto = part.proto  # or the part would hold on to the constants that it has copies of
        return replace(part, make=lambda: proto, files=files)

    def _variant(
        self,
        originals: Sequence[onnx.NodeProto],
        number: int,
        spelling: Spelling,
        constants: MutableMapping[str, onnx.TensorProto],
    ) -> list[onnx.NodeProto]:
        """The nodes of a layer with another first one, whose constants are added to the others."""
        renamed = {t: f"{t}/variant{number}" for n in originals for t in n.output if t}
        nodes = []
        for original in originals:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            node.name = f"{original.name}/variant{number}"
            node.input[:] = [renamed.get(t, t) for t in original.input]
            node.output[:] = [renamed.get(t, t) for t in original.output]
            nodes.append(node)
        head = nodes[0]
        head.op_type, head.domain = spelling.op_type or head.op_type, spelling.domain or head.domain
        if spelling.attributes is not None:
            del head.attribute[:]
            head.attribute.extend(onnx.helper.make_attribute(*item) for item in spelling.attributes.items())
        taken_over = {slot: head.input[source] for slot, source in spelling.moved.items()}
        head.input.extend([""] * (1 + max((*spelling.constants, *taken_over)) - len(head.input)))
        for slot, tensor in taken_over.items():
            head.input[slot] = tensor
        for slot, values in spelling.constants.items():
            name = head.input[slot] = f"{head.name}/{slot}"
            constants[name] = (
                onnx.numpy_helper.from_array(values, name) if self.spill is None else self.spill.temporary(name, values)
            )
        return nodes

    def _part(
        self,
        nodes: list[onnx.NodeProto],
        outputs: list[str],
        forced: Sequence[str],
        added: Mapping[str, onnx.TensorProto] | None = None,
    ) -> Part:
        if not outputs:  # of nodes whose results nobody reads
            return NOTHING
        made = {t for n in nodes for t in n.output} - set(forced)
        read = dict.fromkeys(t for n in nodes for t in read_by(n) if t)
        own, changed = added or {}, dict(self._changed)  # as they are now
        constants = ChainMap(_unchanged(own), changed, _unchanged(self._stored))
        inputs = [t for t in (*forced, *read) if t not in made and (t in forced or t not in constants)]
        inputs = list(dict.fromkeys(inputs))
        held = [t for t in read if t in constants and t not in forced]

        def make() -> onnx.ModelProto:
            return self._made(nodes, inputs, outputs, (constants[t] for t in held))

        return Part(tuple(inputs), tuple(outputs), make)

    def _made(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Iterable[str],
        outputs: Iterable[str],
        constants: Iterable[onnx.TensorProto],
    ) -> onnx.ModelProto:
        part = onnx.ModelProto(ir_version=self.structure.ir_version, opset_import=self.structure.opset_import)
        part.graph.name = "part"
        part.functions.extend(self.structure.functions)  # of a model whose inlining is left out
        imported = {o.domain for o in part.opset_import}
        for domain in sorted({n.domain for n in nodes} - imported - {"", "ai.onnx"}):
            part.opset_import.add(domain=domain, version=1)
        part.graph.node.extend(nodes)
        part.graph.initializer.extend(constants)
        part.graph.input.extend(self._info(t) for t in inputs)
        part.graph.output.extend(onnx.ValueInfoProto(name=t) for t in outputs)
        return part

    def _info(self, tensor: str) -> onnx.ValueInfoProto:
        if tensor in self.index.infos:
            return self.index.infos[tensor]
        return onnx.ValueInfoProto(name=tensor, type=_FLOAT_TENSOR)


def _unchanged(constants: Mapping[str, onnx.TensorProto]) -> MutableMapping[str, onnx.TensorProto]:
    """As part of a `ChainMap`, which asks for mappings that can be written to, but only writes to its first."""
    return cast("MutableMapping[str, onnx.TensorProto]", constants)
