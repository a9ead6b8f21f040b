"""Base class of dialects: the graph being rewritten, names that are still free, constants, Q/DQ pairs.

A dialect is a subclass that decides where pairs go and how weights are spelled; nothing here knows a scheme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxmpq.dialects.marks import mark
from onnxmpq.dialects.sharing import share_constants
from onnxmpq.dialects.types import Rewrite
from onnxmpq.model import (
    LARGEST_KEPT,
    LayerWeight,
    Referred,
    Region,
    Spelling,
    constants_of,
    described_again,
    drop_values,
    export,
    free_name,
    imported,
    keep_descriptions,
    sink,
    subgraphs,
)
from onnxmpq.ranges import BITS, QuantParams, params_key
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import Scheme

UINT8_MIDDLE = 128  # zero point of int8 codes stored as uint8


class Writer:
    """A copy of the prepared graph, changed in place. Node and tensor names of the prepared graph are kept.

    Constants are taken out of the model's store where a dialect reads them, or where the finished graph still has them.
    """

    transposes_constants: ClassVar[bool] = False
    """Sessions unfold a Transpose of a constant, and fuse what reads it as if it were one."""

    def __init__(self, job: Rewrite) -> None:
        self.job = job
        self.graph = imported(job.model.store)
        self.nodes = {n.name: n for n in self.graph.nodes}
        self.tensors = self.graph.tensors()
        inner = {t for g in subgraphs(job.model.structure.graph) for n in g.node for t in (n.name, *n.output)}
        self.taken = {*self.nodes, *self.tensors, *inner, *job.model.store}
        self.shared_constants: dict[str, gs.Constant] = {}
        self.private: set[str] = set()
        self.stems = {key: f"w{number}" for number, key in enumerate(job.model.weights)}

    def chosen(self) -> list[tuple[Region, Scheme]]:
        """Regions that are not left as they are, in graph order."""
        found = ((r, self.job.assignment.get(r.name)) for r in self.job.model.regions)
        return [(r, s) for r, s in found if s is not None and not s.is_fp32]

    def finish(self) -> onnx.ModelProto:
        """The rewritten model, without what nothing reads any more. Ends the use of the writer."""
        self.graph.cleanup().toposort()
        store = self.job.model.store
        described_again(self.graph, store)
        proto = export(self.graph, store.structure)
        share_constants(proto, self.new, store, self.private, transposed=self.transposes_constants)
        store.fill(proto)
        store.spilled(proto)
        sink(proto)
        drop_values((*constants_of(self.graph), *self.tensors.values()))
        proto.ir_version = store.structure.ir_version
        del proto.graph.value_info[:]
        keep_descriptions(store.structure, proto)
        mark(proto, self.chosen())
        return proto

    # ---- names, constants, nodes ---------------------------------------------------------------

    def new(self, name: str) -> str:
        """The name, with a number where a node or tensor of the model already has it."""
        return free_name(name, self.taken)

    def stem(self, place: LayerWeight) -> str:
        """Prefix for names of a stored weight. It occurs six times, so in small files its length counts."""
        return self.stems[place.key]

    def constant(self, name: str, values: NDArray[np.generic]) -> gs.Constant:
        free = self.new(name)
        if self.job.model.store.spill is None or values.size <= LARGEST_KEPT:
            return gs.Constant(free, values)
        return self._in_file(onnx.numpy_helper.from_array(np.ascontiguousarray(values), free))

    def _in_file(self, tensor: onnx.TensorProto) -> gs.Constant:
        """Of a model that is never whole in memory."""
        spill = self.job.model.store.spill
        assert spill is not None
        return gs.Constant(tensor.name, Referred(spill.put(tensor)))

    def shared(self, name: str, values: NDArray[np.generic]) -> gs.Constant:
        """An initializer that all who ask for this name get."""
        if name not in self.shared_constants:
            self.shared_constants[name] = self.constant(name, values)
        return self.shared_constants[name]

    def scalar(self, value: np.generic) -> gs.Constant:
        """A shared scalar initializer."""
        return self.shared(f"mpq/{value.dtype.name}/{value!s}", np.array(value))

    def small_int(self, name: str, values: NDArray[np.generic], element: int) -> gs.Constant:
        """A 4-bit initializer, two codes per byte (onnx.proto: low nibble first)."""
        flat = values.reshape(-1).astype(np.int8).view(np.uint8) & 0x0F
        if len(flat) % 2:
            flat = np.append(flat, np.uint8(0))
        packed = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
        return self.raw(name, element, values.shape, packed.tobytes())

    def raw(self, name: str, element: int, shape: tuple[int, ...], data: bytes) -> gs.Constant:
        """An initializer of a type that NumPy does not have."""
        free = self.new(name)
        proto = helper.make_tensor(free, element, shape, data, raw=True)
        if self.job.model.store.spill is not None and math.prod(shape) > LARGEST_KEPT:
            return self._in_file(proto)
        return gs.Constant(free, gs.ir.tensor.LazyValues(proto))

    def node(self, op: str, name: str, inputs: list[gs.Tensor], dtype: type, **attributes: object) -> gs.Tensor:
        """The result of a new node, which has the node's name."""
        free = self.new(name)
        result = gs.Variable(free, dtype=dtype)
        self.graph.nodes.append(gs.Node(op, free, attributes, inputs, [result]))
        return result

    def append_cast(self, source: gs.Tensor, result: gs.Tensor, element: int) -> None:
        """source -> Cast -> result."""
        self.graph.nodes.append(gs.Node("Cast", self.new(f"{result.name}/cast"), {"to": element}, [source], [result]))

    # ---- activations ---------------------------------------------------------------------------

    def params(self, tensor: str, bits: int = BITS) -> QuantParams:
        return self.job.activations[params_key(self.job.roots.get(tensor, tensor), bits)]

    def pair(self, source: gs.Tensor, result: gs.Tensor, stem: str, params: QuantParams) -> None:
        """source -> QuantizeLinear -> DequantizeLinear -> result."""
        scale, zero_point = self.scalar(np.float32(params.scale)), self.zero_point(params)
        codes = gs.Variable(self.new(f"{stem}/q"), dtype=np.uint8)
        quantize, dequantize = self.new(f"{stem}/Q"), self.new(f"{stem}/DQ")
        self.graph.nodes.append(gs.Node("QuantizeLinear", quantize, {}, [source, scale, zero_point], [codes]))
        self.graph.nodes.append(gs.Node("DequantizeLinear", dequantize, {}, [codes, scale, zero_point], [result]))

    def zero_point(self, params: QuantParams) -> gs.Constant:
        """It also tells QuantizeLinear the type of the codes."""
        if params.type == "float8e4m3fn":
            return self.fp8_zero()
        return self.scalar(np.dtype(params.type).type(params.zero_point))

    def fp8_zero(self) -> gs.Constant:
        name = "mpq/float8e4m3fn/0"
        if name not in self.shared_constants:
            self.shared_constants[name] = self.raw(name, TensorProto.FLOAT8E4M3FN, (), b"\0")
        return self.shared_constants[name]

    def quantized_view(self, name: str) -> gs.Tensor:
        """A tensor through a Q/DQ pair, for readers that are quantized."""
        view = gs.Variable(self.new(f"{name}/dq"), dtype=np.float32)
        self.pair(self.tensors[name], view, name, self.params(name))
        return view

    def reconnect(self, region: Region, tensor: gs.Tensor, view: gs.Tensor | None) -> None:
        """All nodes of a region read `view` instead of `tensor`."""
        for name in region.nodes:
            node = self.nodes[name]
            node.inputs = [view if t is tensor else t for t in node.inputs]

    # ---- weights -------------------------------------------------------------------------------

    def compute_inside(self, region: Region, spelling: Spelling, constants: Mapping[int, NDArray[np.generic]]) -> None:
        """The region's head node as a kernel that takes the weights as they are stored. constants: by input."""
        node, stem = self.nodes[region.nodes[0]], self.stem(region.params.weights[0])
        node.op, node.domain = spelling.op_type, spelling.domain
        if spelling.attributes is not None:
            node.attrs = dict(spelling.attributes)
        given = {slot: node.inputs[source] for slot, source in spelling.moved.items()}
        given |= {slot: self.constant(f"{stem}/{slot}", values) for slot, values in constants.items()}
        for slot, tensor in sorted(given.items()):
            while len(node.inputs) <= slot:
                node.inputs.append(gs.Variable.empty())
            node.inputs[slot] = tensor

    def int8_weight(
        self, place: LayerWeight, weight: QuantizedWeight, codes: gs.Tensor, *, unsigned: bool = False
    ) -> gs.Tensor:
        """int8 codes in the weight's stored shape, dequantized per output channel. unsigned: uint8, larger by 128.

        Zero points are the layer's own: with `session.x64quantprecision` onnxruntime 1.32 replaces them layer by layer,
        and refuses the model where two share them. So it does with the codes; those that cannot saturate need no such
        session, and may be shared (`dialects/sharing.py`).
        """
        if not unsigned and weight.format.may_saturate and not weight.format.saturation_free:
            self.private.add(codes.name)
        axis, channels = place.channel_axis, len(weight.scales)
        scales = self.constant(f"{self.stem(place)}/scale", weight.scales.astype(np.float32))
        middle = np.uint8(UINT8_MIDDLE) if unsigned else np.int8(0)
        zeros = self.constant(f"{self.stem(place)}/zero", np.full(channels, middle))
        return self.node("DequantizeLinear", f"{self.stem(place)}/w", [codes, scales, zeros], np.float32, axis=axis)
