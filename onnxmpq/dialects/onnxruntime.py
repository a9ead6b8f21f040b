"""The onnxruntime CPU dialect: QDQ patterns that its graph optimiser fuses (DESIGN §3).

Placement of activation Q/DQ follows one rule per tensor. Where the producing region writes int8, the tensor's own
name becomes the output of Q -> DQ, so all readers (and graph outputs) see the quantized value. Where it writes
float, only int8 readers get a Q -> DQ pair, shared between them. The optimiser moves each DQ into its int8 reader.

What only an int8 Concat reads takes the scale of its result: values are rounded once instead of twice, and the kernel
copies bytes instead of looking each one up in a table (`joined`).

Readers that ask for fewer than 8 bits get Clip -> Q -> DQ on what the producer computed, before any other rounding:
the Clip keeps the uint8 codes within their bits. Such plans are for modelled hardware; this file simulates them.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxmpq.dialects.types import Rewrite
from onnxmpq.model import Region, RegionKind
from onnxmpq.ranges.params import BITS, QuantParams, params_key
from onnxmpq.rounding.types import QuantizedWeight
from onnxmpq.schemes import FLOAT_RESULT_OPS, Format, Scheme, writes

_INT32_LIMIT = 2**31 - 1
PER_CHANNEL_OPSET = 13  # DequantizeLinear(axis)
INT4_OPSET = 21  # int4 tensors, blocked DequantizeLinear
BLOCKED = ("MatMulNBits",)


def rewrite(job: Rewrite) -> onnx.ModelProto:
    """Write the plan into a copy of the model. Node and tensor names of the prepared graph are kept."""
    return _Writer(job).write()


class _Writer:
    def __init__(self, job: Rewrite) -> None:
        self.job = job
        self.graph = gs.import_onnx(job.model.proto)
        self.nodes = {n.name: n for n in self.graph.nodes}
        self.tensors = self.graph.tensors()
        self.taken = {*self.nodes, *self.tensors}
        self.shared: dict[str, gs.Constant] = {}
        self.joined = joined(job)
        self.computed: dict[str, gs.Tensor] = {}  # tensor -> its float values, where the name has the quantized ones

    def write(self) -> onnx.ModelProto:
        chosen = [(r, s) for r in self.job.model.regions if not (s := self._scheme(r)).is_float]
        asked = sorted({(t, s.activation_bits) for r, s in chosen if s.reads is Format.INT8 for t in r.inputs})
        int8_readers = {tensor for tensor, bits in asked if bits == BITS}
        written = {t for r, s in chosen if writes(s, r.op_type) is Format.INT8 for t in r.outputs}
        views = {t: self._quantize_after_producer(t) if t in written else None for t in sorted(written)}
        for tensor in sorted(int8_readers - written):
            views[tensor] = self._quantize_for_readers(tensor)
        narrow = {(tensor, bits): self._quantize_narrowly(tensor, bits) for tensor, bits in asked if bits < BITS}
        for region, scheme in chosen:
            if scheme.reads is Format.INT8:
                for tensor in region.inputs:
                    if scheme.activation_bits < BITS:
                        self._reconnect(region, self.tensors[tensor], narrow[tensor, scheme.activation_bits])
                    elif tensor not in written:
                        self._reconnect(region, self.tensors[tensor], views[tensor])
                if region.pattern == "SiLU":
                    self._quantize_inside_silu(region)
            if region.layer is not None and scheme.weight is not None:
                self._store_weight(region, scheme)
        self.graph.cleanup().toposort()
        proto: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        proto.ir_version = self.job.model.proto.ir_version
        del proto.graph.value_info[:]
        return proto

    def _scheme(self, region: Region) -> Scheme:
        scheme = self.job.assignment.get(region.name)
        return scheme if scheme is not None else _LEFT_ALONE

    def _new(self, name: str) -> str:
        """The name, with a number where a node or tensor of the model already has it."""
        free, number = name, 1
        while free in self.taken:
            free, number = f"{name}_{number}", number + 1
        self.taken.add(free)
        return free

    # ---- activations ---------------------------------------------------------------------------

    def _params(self, tensor: str, bits: int = BITS) -> QuantParams:
        while bits == BITS and tensor in self.joined:
            tensor = self.joined[tensor]
        return self.job.activations[params_key(self.job.roots.get(tensor, tensor), bits)]

    def _pair(self, source: gs.Tensor, result: gs.Tensor, stem: str, params: QuantParams) -> None:
        """source -> QuantizeLinear -> DequantizeLinear -> result."""
        scale = self._scalar(np.float32(params.scale))
        zero_point = self._scalar(np.uint8(params.zero_point))
        codes = gs.Variable(self._new(f"{stem}/q"), dtype=np.uint8)
        quantize, dequantize = self._new(f"{stem}/Q"), self._new(f"{stem}/DQ")
        self.graph.nodes.append(gs.Node("QuantizeLinear", quantize, {}, [source, scale, zero_point], [codes]))
        self.graph.nodes.append(gs.Node("DequantizeLinear", dequantize, {}, [codes, scale, zero_point], [result]))

    def _scalar(self, value: np.generic) -> gs.Constant:
        """A shared scalar initializer."""
        return self._shared(f"mpq/{value.dtype.name}/{value!s}", np.array(value))

    def _shared(self, name: str, values: NDArray[np.generic]) -> gs.Constant:
        """An initializer that all who ask for this name get."""
        if name not in self.shared:
            self.shared[name] = self._constant(name, values)
        return self.shared[name]

    def _constant(self, name: str, values: NDArray[np.generic]) -> gs.Constant:
        return gs.Constant(self._new(name), values)

    def _quantize_after_producer(self, name: str) -> gs.Tensor:
        tensor = self.tensors[name]
        producer = tensor.inputs[0]
        raw = gs.Variable(self._new(f"{name}/float"), dtype=np.float32)
        producer.outputs = [raw if t is tensor else t for t in producer.outputs]
        self._pair(raw, tensor, name, self._params(name))
        self.computed[name] = raw
        return tensor

    def _quantize_for_readers(self, name: str) -> gs.Tensor:
        view = gs.Variable(self._new(f"{name}/dq"), dtype=np.float32)
        self._pair(self.tensors[name], view, name, self._params(name))
        return view

    def _quantize_narrowly(self, name: str, bits: int) -> gs.Tensor:
        """The tensor rounded to fewer than 8 bits, as uint8 codes that a Clip keeps within them."""
        params, stem = self._params(name, bits), f"{name}/{bits}bit"
        clipped, view = (gs.Variable(self._new(f"{stem}/{part}"), dtype=np.float32) for part in ("clip", "dq"))
        bounds = [self._scalar(np.float32(bound)) for bound in (params.low, params.high)]
        source = self.computed.get(name, self.tensors[name])
        self.graph.nodes.append(gs.Node("Clip", self._new(f"{stem}/Clip"), {}, [source, *bounds], [clipped]))
        self._pair(clipped, view, stem, params)
        return view

    def _reconnect(self, region: Region, tensor: gs.Tensor, view: gs.Tensor | None) -> None:
        for name in region.nodes:
            node = self.nodes[name]
            node.inputs = [view if t is tensor else t for t in node.inputs]

    def _quantize_inside_silu(self, region: Region) -> None:
        sigmoid, product = (self.nodes[n] for n in region.nodes)
        inner = sigmoid.outputs[0]
        view = gs.Variable(self._new(f"{inner.name}/dq"), dtype=np.float32)
        product.inputs = [view if t is inner else t for t in product.inputs]
        self._pair(inner, view, inner.name, QuantParams(1.0 / 255.0, 0))

    # ---- weights -------------------------------------------------------------------------------

    def _store_weight(self, region: Region, scheme: Scheme) -> None:
        assert scheme.weight is not None
        weight = self.job.weights[region.name, scheme.weight.name]
        node = self.nodes[region.nodes[0]]
        slot = 0 if region.op_type == "Gather" else 1
        if scheme.reads is Format.INT8:
            node.inputs[slot] = self._int8_weight(region, weight)
            self._int8_bias(region, node, weight, scheme.activation_bits)
        elif scheme.fuses_to:
            self._blocked_weight(region, node, weight)
        else:
            node.inputs[slot] = self._float_weight(region, weight)

    def _int8_weight(self, region: Region, weight: QuantizedWeight) -> gs.Tensor:
        layer = region.params
        axis = 1 if layer.transposed else 0
        codes = self._codes(region, weight, onnx.TensorProto.INT8)
        scales = self._constant(f"{region.name}/scale", weight.scales.astype(np.float32))
        zeros = self._shared(f"mpq/zeros/{len(weight.scales)}", np.zeros(len(weight.scales), np.int8))
        return self._node("DequantizeLinear", f"{region.name}/w", [codes, scales, zeros], np.float32, axis=axis)

    def _float_weight(self, region: Region, weight: QuantizedWeight) -> gs.Tensor:
        """Codes times scales by plain arithmetic, which the session folds to a float32 constant."""
        layer = region.params
        codes = self._codes(region, weight, onnx.TensorProto.FLOAT)
        if layer.transposed:
            shape: tuple[int, ...] = (1, layer.out_channels)
        else:
            shape = (layer.out_channels, *[1] * (len(layer.weight_shape) - 1))
        scales = self._constant(f"{region.name}/scale", weight.scales.reshape(shape).astype(np.float32))
        return self._node("Mul", f"{region.name}/w", [codes, scales], np.float32)

    def _codes(self, region: Region, weight: QuantizedWeight, element: int) -> gs.Tensor:
        """Integer weights in the layer's stored shape, as int8 or float values."""
        layer = region.params
        if weight.multipliers is None:
            stored = layer.stored(weight.codes)
            if weight.format.bits > 4:
                codes = self._constant(f"{region.name}/codes", stored.astype(np.int8))
                return codes if element == TensorProto.INT8 else self._cast(region, codes, element)
            return self._cast(region, self._small_int(f"{region.name}/codes", stored, TensorProto.INT4), element)
        rows, blocks = weight.multipliers.shape
        codes = self._small_int(
            f"{region.name}/codes", weight.codes.reshape(rows, blocks, layer.fan_in // blocks), TensorProto.INT4
        )
        if np.all(weight.multipliers == 1):
            unfolded = self._cast(region, codes, element)
        else:
            multipliers = self._small_int(
                f"{region.name}/multipliers", weight.multipliers.reshape(rows, blocks, 1), TensorProto.UINT4
            )
            wide = self._node("Cast", f"{region.name}/codes32", [codes], np.int32, to=TensorProto.INT32)
            factor = self._node("Cast", f"{region.name}/multipliers32", [multipliers], np.int32, to=TensorProto.INT32)
            product = self._node("Mul", f"{region.name}/unfolded", [wide, factor], np.int32)
            unfolded = self._cast(region, product, element)
        return self._to_stored_shape(region, unfolded)

    def _to_stored_shape(self, region: Region, matrix: gs.Tensor) -> gs.Tensor:
        layer = region.params
        flat = (layer.out_channels, layer.fan_in) if layer.transposed else layer.weight_shape
        shape = self._constant(f"{region.name}/shape", np.array(flat, np.int64))
        shaped = self._node("Reshape", f"{region.name}/shaped", [matrix, shape], matrix.dtype)
        if not layer.transposed:
            return shaped
        return self._node("Transpose", f"{region.name}/transposed", [shaped], matrix.dtype, perm=[1, 0])

    def _cast(self, region: Region, tensor: gs.Tensor, element: int) -> gs.Tensor:
        dtype = np.int8 if element == TensorProto.INT8 else np.float32
        return self._node("Cast", f"{region.name}/{dtype.__name__}", [tensor], dtype, to=element)

    def _node(self, op: str, name: str, inputs: list[gs.Tensor], dtype: type, **attributes: object) -> gs.Tensor:
        free = self._new(name)
        result = gs.Variable(free, dtype=dtype)
        self.graph.nodes.append(gs.Node(op, free, attributes, inputs, [result]))
        return result

    def _small_int(self, name: str, values: NDArray[np.generic], element: int) -> gs.Constant:
        return _small_int(self._new(name), values, element)

    def _int8_bias(self, region: Region, node: gs.Node, weight: QuantizedWeight, bits: int) -> None:
        """int32 bias with scale input x weight, as QLinearConv and QGemm take it; a MatMul's Add stays float."""
        if region.op_type == "MatMul" or len(node.inputs) < 3:
            return
        bias = node.inputs[2]
        scales = self._params(region.inputs[0], bits).scale * weight.scales.astype(np.float64)
        codes = np.clip(np.rint(bias.values.astype(np.float64).ravel() / scales), -_INT32_LIMIT, _INT32_LIMIT)
        quantized = self._constant(f"{region.name}/bias", codes.astype(np.int32))
        scale = self._constant(f"{region.name}/bias_scale", scales.astype(np.float32))
        node.inputs[2] = self._node("DequantizeLinear", f"{region.name}/b", [quantized, scale], np.float32, axis=0)

    def _blocked_weight(self, region: Region, node: gs.Node, weight: QuantizedWeight) -> None:
        """Weight [K, N] in blocks along K, the one layout that becomes MatMulNBits; a Gemm becomes MatMul + Add."""
        element = TensorProto.INT4 if weight.format.bits <= 4 else TensorProto.INT8
        codes = weight.codes.T
        if element == TensorProto.INT4:
            stored = self._small_int(f"{region.name}/codes", codes, element)
        else:
            stored = self._constant(f"{region.name}/codes", np.ascontiguousarray(codes).astype(np.int8))
        scales = self._constant(f"{region.name}/scale", np.ascontiguousarray(weight.scales.T.astype(np.float32)))
        unfolded = self._node(
            "DequantizeLinear", f"{region.name}/w", [stored, scales], np.float32, axis=0, block_size=weight.block
        )
        if node.op == "Gemm" and len(node.inputs) > 2:
            bias, result = node.inputs[2], node.outputs[0]
            product = gs.Variable(self._new(f"{result.name}/product"), dtype=np.float32)
            node.outputs = [product]
            self.graph.nodes.append(gs.Node("Add", self._new(f"{node.name}/bias"), {}, [product, bias], [result]))
        node.op, node.attrs = "MatMul", {}
        node.inputs = [node.inputs[0], unfolded]


def joined(job: Rewrite) -> dict[str, str]:
    """Tensor that nothing but an int8 Concat reads -> the Concat's result, whose parameters it takes."""
    found: dict[str, str] = {}
    consumers, kept = job.model.consumers, set(job.model.output_names)
    for region in job.model.regions:
        scheme = job.assignment.get(region.name)
        if region.op_type != "Concat" or scheme is None or scheme.reads is not Format.INT8:
            continue
        for tensor in region.inputs:
            own = job.roots.get(tensor, tensor) == tensor  # else its source may have readers of its own
            if own and tensor not in kept and consumers.get(tensor) == [region]:
                found[tensor] = region.outputs[0]
    return found


_LEFT_ALONE = Scheme("fp32", "left in float32")


def _small_int(name: str, values: NDArray[np.generic], element: int) -> gs.Constant:
    """A 4-bit initializer, two codes per byte (onnx.proto: low nibble first)."""
    flat = values.reshape(-1).astype(np.int8).view(np.uint8) & 0x0F
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    packed = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
    proto = helper.make_tensor(name, element, values.shape, packed.tobytes(), raw=True)
    return gs.Constant(name, gs.ir.tensor.LazyValues(proto))


def supports(region: Region, scheme: Scheme, opset: int) -> bool:
    """Whether this dialect can spell the scheme for the region (the runtime may still refuse to fuse it)."""
    if scheme.is_float:
        return True
    small = scheme.weight is not None and scheme.weight.bits <= 4
    if opset < (INT4_OPSET if small or scheme.fuses_to == BLOCKED else PER_CHANNEL_OPSET):
        return False
    layer = region.layer
    if layer is None:
        return region.kind is not RegionKind.FLOAT and bool(region.inputs) and bool(region.outputs)
    if scheme.reads is Format.INT8:
        return region.op_type not in ("ConvTranspose", "Gather")
    if scheme.fuses_to == BLOCKED:
        block = scheme.weight.block if scheme.weight else None
        return region.op_type in FLOAT_RESULT_OPS and block is not None and layer.fan_in % block == 0
    return True
