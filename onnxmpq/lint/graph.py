"""A graph as the rules read it: who makes and reads each tensor, what is constant, and every Q/DQ node's parameters.

It takes graphs as they are, of any tool: nothing is folded, renamed or raised to another opset, names may be missing,
tensors may have no maker. What cannot be told is None or UNDEFINED, and no rule accuses on that ground.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from onnxmpq.model import array_of, is_reference, opset_of, shell, with_values

UNDEFINED: int = TensorProto.UNDEFINED
# Operators by name, in any domain: com.microsoft has its own pair, older NVIDIA exports have one per type.
QUANTIZE: dict[str, int] = {
    "QuantizeLinear": UNDEFINED,
    "TRT_FP8QuantizeLinear": TensorProto.FLOAT8E4M3FN,
    "TRT_INT4QuantizeLinear": TensorProto.INT4,
}
DEQUANTIZE: dict[str, int] = {
    "DequantizeLinear": UNDEFINED,
    "TRT_FP8DequantizeLinear": TensorProto.FLOAT8E4M3FN,
    "TRT_INT4DequantizeLinear": TensorProto.INT4,
}
FLOAT8: frozenset[int] = frozenset(
    {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ}
)
FOUR_BIT: frozenset[int] = frozenset({TensorProto.INT4, TensorProto.UINT4})
# Move values without changing them, so a quantized tensor stays one on their other side.
MOVERS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "MaxPool"})
# Take apart and scale integer codes, which a session does once.
UNFOLDING = frozenset(
    {"Add", "Cast", "Concat", "Div", "Identity", "Mod", "Mul", "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)
LAYERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"})


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear node.

    data, result, scale, zero_point: tensor names, "" where the node has none. element: TensorProto type on the
    quantized side. block_size: 0 for per tensor and per channel.
    """

    name: str
    quantizes: bool
    data: str
    result: str
    scale: str
    zero_point: str
    element: int
    axis: int
    block_size: int


@dataclass(frozen=True)
class Use:
    """A node that reads a tensor, and in which of its inputs."""

    node: onnx.NodeProto
    slot: int


class Graph:
    """One graph of a model, its main graph or the body of an If, Loop or Scan."""

    def __init__(self, model: onnx.ModelProto, graph: onnx.GraphProto, outer: Graph | None = None) -> None:
        self.model, self.proto, self.outer = model, graph, outer
        self.opset = opset_of(model)
        self.nodes = list(graph.node)
        self.inputs = {i.name for i in graph.input}
        self.outputs = {o.name for o in graph.output}
        self.makers: dict[str, onnx.NodeProto] = {t: n for n in self.nodes for t in n.output if t}
        self.uses: dict[str, list[Use]] = {}
        for node in self.nodes:
            for slot, tensor in enumerate(node.input):
                if tensor:
                    self.uses.setdefault(tensor, []).append(Use(node, slot))
        self._tensors: dict[str, onnx.TensorProto] = dict(outer._tensors) if outer else {}
        self._tensors |= {t.name: t for t in graph.initializer}
        self._tensors |= {n.output[0]: t for n in self.nodes if n.output and (t := _constant_tensor(n)) is not None}
        self._constants = self._find_constants()
        self._values: dict[str, NDArray[np.float64] | None] = {}

    def _find_constants(self) -> frozenset[str]:
        """Names of everything that a runtime can compute before the first inference."""
        found = set(self.outer._constants) if self.outer else set()
        found |= self._tensors.keys()
        for node in self.nodes:
            given = [t for t in node.input if t]
            inner = any(a.HasField("g") or a.graphs for a in node.attribute)
            if node.op_type == "Constant" or (
                given and not inner and node.op_type not in _RANDOM and all(t in found for t in given)
            ):
                found.update(t for t in node.output if t)
        return frozenset(found)

    # ---- tensors -------------------------------------------------------------------------------

    def is_constant(self, tensor: str) -> bool:
        return tensor in self._constants

    def value(self, tensor: str) -> NDArray[np.float64] | None:
        """The values of an initializer or Constant, also behind Identity and Cast; None where they are not at hand."""
        if tensor in self._tensors and is_reference(self._tensors[tensor]):
            return self._read(tensor)  # too large to be kept
        if tensor not in self._values:
            self._values[tensor] = None  # ends cycles of damaged graphs
            self._values[tensor] = self._read(tensor)
        return self._values[tensor]

    def _read(self, tensor: str) -> NDArray[np.float64] | None:
        if tensor in self._tensors:
            try:
                return np.asarray(array_of(self._tensors[tensor])).astype(np.float64)
            except (ValueError, TypeError, OSError, onnx.checker.ValidationError):
                return None  # external data that was not read, or a damaged tensor; the checker has a word on it
        maker = self.makers.get(tensor)
        if maker is not None and maker.op_type in ("Identity", "Cast") and maker.input:
            return self.value(maker.input[0])
        return None

    def integers(self, tensor: str) -> NDArray[np.integer] | None:
        """The integers of a constant, also where nodes unfold it from others; None where they are not at hand.

        Not kept, and of their own type where NumPy has it, since weights are large.
        """
        if not self.is_constant(tensor):
            return None
        nodes, stored = self._behind(tensor)
        if any(n.op_type not in UNFOLDING or n.domain not in ("", "ai.onnx") for n in nodes):
            return None
        try:
            if not nodes:
                values = np.asarray(array_of(self._tensors[tensor]))
            else:
                part = onnx.helper.make_graph(nodes, "part", [], [onnx.ValueInfoProto(name=tensor)], stored)
                opset = onnx.helper.make_opsetid("", self.opset)
                whole = onnx.helper.make_model(part, opset_imports=[opset], ir_version=self.model.ir_version)
                values = np.asarray(next(iter(ReferenceEvaluator(whole).run(None, {}))))
            return values if values.dtype.kind in "iu" else values.astype(np.int64)
        except Exception:  # its own types, and NumPy's, where a graph is damaged or its external data was not read
            return None

    def _behind(self, tensor: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Nodes, in graph order, and stored tensors that a tensor is computed from."""
        makers: set[int] = set()
        seen, waiting = {tensor}, [tensor]
        while waiting:
            name = waiting.pop()
            maker = None if name in self._tensors else self.makers.get(name)
            if maker is not None:
                makers.add(id(maker))
                fresh = [t for t in maker.input if t and t not in seen]
                seen.update(fresh)
                waiting += fresh
        stored = [self._named(t) for t in seen if t in self._tensors]
        return [n for n in self.nodes if id(n) in makers], stored

    def _named(self, name: str) -> onnx.TensorProto:
        """A stored tensor under the name by which nodes read it; that of a Constant may have another."""
        tensor = self._tensors[name]
        if is_reference(tensor):
            return with_values(tensor, None)
        if tensor.name != name:
            tensor, unnamed = onnx.TensorProto(), tensor
            tensor.CopyFrom(unnamed)
            tensor.name = name
        return tensor

    def element(self, tensor: str) -> int:
        """TensorProto type, UNDEFINED where unknown."""
        if tensor in self._tensors:
            return int(self._tensors[tensor].data_type)
        found = self._types.get(tensor)
        if found is not None:
            return int(found.elem_type)
        return self.outer.element(tensor) if self.outer else UNDEFINED

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """Dimensions, None for dynamic ones; None where not even the rank is known."""
        if tensor in self._tensors:
            return tuple(self._tensors[tensor].dims)
        found = self._types.get(tensor)
        if found is not None and found.HasField("shape"):
            return tuple(d.dim_value if d.HasField("dim_value") else None for d in found.shape.dim)
        return self.outer.shape(tensor) if self.outer else None

    @cached_property
    def _types(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        infos = [*self.proto.input, *self.proto.output, *self.proto.value_info]
        if self.outer is None:
            with contextlib.suppress(Exception):  # its own types, RuntimeError, ValueError, where a graph is damaged
                infos += onnx.shape_inference.infer_shapes(shell(self.model)).graph.value_info
        return {i.name: i.type.tensor_type for i in infos if i.type.HasField("tensor_type")}

    # ---- quantizers ----------------------------------------------------------------------------

    @cached_property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """Every Q and DQ node, in graph order; one without a scale or a result is left to the checker."""
        return tuple(q for n in self.nodes if (q := self._quantizer(n)) is not None)

    @cached_property
    def _by_result(self) -> dict[str, Quantizer]:
        return {q.result: q for q in self.quantizers}

    def _quantizer(self, node: onnx.NodeProto) -> Quantizer | None:
        quantizes = node.op_type in QUANTIZE
        if not quantizes and node.op_type not in DEQUANTIZE:
            return None
        if len(node.input) < 2 or not node.output or not all((node.input[0], node.input[1], node.output[0])):
            return None
        zero_point = node.input[2] if len(node.input) > 2 else ""
        element = QUANTIZE[node.op_type] if quantizes else DEQUANTIZE[node.op_type]
        if element == UNDEFINED and quantizes:
            element = (
                self.element(zero_point)
                if zero_point
                else integer(node, "output_dtype", UNDEFINED) or TensorProto.UINT8
            )
        elif element == UNDEFINED:
            element = self.element(node.input[0])
        return Quantizer(
            label(node),
            quantizes,
            node.input[0],
            node.output[0],
            node.input[1],
            zero_point,
            element,
            integer(node, "axis", 1),
            integer(node, "block_size", 0),
        )

    def quantizer_of(self, tensor: str, through: frozenset[str] = MOVERS) -> Quantizer | None:
        """The Q or DQ node that makes a tensor, looking back through operators that only move values."""
        for _ in range(len(self.nodes) + 1):
            if tensor in self._by_result:
                return self._by_result[tensor]
            maker = self.makers.get(tensor)
            if maker is None or maker.op_type not in through or not maker.input:
                return None
            tensor = maker.input[0]
        return None

    def dequantizer_of(self, tensor: str, through: frozenset[str] = MOVERS) -> Quantizer | None:
        """As `quantizer_of`, for DQ nodes only."""
        found = self.quantizer_of(tensor, through)
        return None if found is None or found.quantizes else found

    def ends(self, tensor: str, through: frozenset[str] = MOVERS) -> list[Use]:
        """Who reads a tensor in the end, looking forward through operators that only move values."""
        found: list[Use] = []
        seen, waiting = {tensor}, [tensor]
        while waiting:
            for use in self.uses.get(waiting.pop(), ()):
                if use.node.op_type not in through or use.slot != 0:
                    found.append(use)
                    continue
                fresh = [t for t in use.node.output if t and t not in seen]
                seen.update(fresh)
                waiting += fresh
        return found

    def layers(self) -> Iterator[onnx.NodeProto]:
        """Nodes that multiply with weights, or with another activation."""
        for node in self.nodes:
            if node.op_type in LAYERS and len(node.input) > 1 and node.output:
                yield node


def graphs(model: onnx.ModelProto) -> list[Graph]:
    """The main graph first, then the bodies inside it."""
    found = [Graph(model, model.graph)]
    for graph in found:  # grows while it is walked
        for node in graph.nodes:
            for attribute in node.attribute:
                bodies = [attribute.g] if attribute.HasField("g") else []
                found.extend(Graph(model, body, graph) for body in (*bodies, *attribute.graphs))
    return found


def label(node: onnx.NodeProto) -> str:
    """A name by which the user can find the node."""
    return node.name or f"{node.op_type} -> {', '.join(node.output)}"


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute, or the default where the node has none of this name."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else int(found.i)


def type_name(element: int) -> str:
    """int8, float8e4m3fn, ..."""
    try:
        name: str = TensorProto.DataType.Name(element)
        return name.lower()
    except ValueError:
        return f"type {element}"


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant":
        return None
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.HasField("t"):
            tensor: onnx.TensorProto = attribute.t
            return tensor
        if attribute.name == "value_float":
            return onnx.numpy_helper.from_array(np.array(attribute.f, np.float32))
        if attribute.name == "value_floats":
            return onnx.numpy_helper.from_array(np.array(attribute.floats, np.float32))
        if attribute.name == "value_int":
            return onnx.numpy_helper.from_array(np.array(attribute.i, np.int64))
        if attribute.name == "value_ints":
            return onnx.numpy_helper.from_array(np.array(attribute.ints, np.int64))
    return None
