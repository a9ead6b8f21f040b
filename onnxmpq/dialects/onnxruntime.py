"""The onnxruntime CPU dialect: QDQ patterns that its graph optimiser fuses.

Placement of activation Q/DQ follows one rule per tensor. Where the producing region writes int8, the tensor's own
name becomes the output of Q -> DQ, so all readers (and graph outputs) see the quantized value. Where it writes
float, only int8 readers get a Q -> DQ pair, shared between them. The optimiser moves each DQ into its int8 reader.

What only an int8 Concat reads takes the scale of its result: values are rounded once instead of twice, and the kernel
copies bytes instead of looking each one up in a table (`joined`).

Readers that ask for fewer than 8 bits get Clip -> Q -> DQ on what the producer computed, before any other rounding:
the Clip keeps the uint8 codes within their bits. Such plans are for modelled hardware; this file simulates them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxmpq.dialects import blocks, dynamic
from onnxmpq.dialects.types import Rewrite
from onnxmpq.dialects.writer import UINT8_MIDDLE, Writer
from onnxmpq.model import LayerWeight, Region, RegionKind, Spelling
from onnxmpq.ranges import BITS, QuantParams
from onnxmpq.rounding import Dual, PerChannel, QuantizedWeight, WeightFormat, opsets
from onnxmpq.schemes import Format, Scheme, writes

_LARGEST_BIAS = 2**30
"""Magnitude of an int32 bias; the other half of int32 is for the sum of products that it is added to, of up to 32768
inputs."""

_SMALLEST_BIAS_STEP = float(np.finfo(np.float32).tiny)
"""Kernels multiply the scales of input and weight in float32, which must not make 0 of them."""


def rewrite(job: Rewrite) -> onnx.ModelProto:
    """Write the plan into a copy of the model. Node and tensor names of the prepared graph are kept."""
    return _Writer(job).write()


class _Writer(Writer):
    transposes_constants = True

    def __init__(self, job: Rewrite) -> None:
        super().__init__(job)
        self.joined = joined(job)
        self.computed: dict[str, gs.Tensor] = {}  # tensor -> its float values, where the name has the quantized ones

    def write(self) -> onnx.ModelProto:
        chosen = self.chosen()
        asked = sorted({(t, s.activation_bits) for r, s in chosen if s.reads is Format.INT8 for t in r.inputs})
        int8_readers = {tensor for tensor, bits in asked if bits == BITS}
        written = {t for r, s in chosen if writes(s, r.op_type) is Format.INT8 for t in r.outputs}
        views = {t: self._quantize_after_producer(t) if t in written else None for t in sorted(written)}
        for tensor in sorted(int8_readers - written):
            views[tensor] = self.quantized_view(tensor)
        narrow = {(tensor, bits): self._quantize_narrowly(tensor, bits) for tensor, bits in asked if bits < BITS}
        for region, scheme in chosen:
            if scheme.reads is Format.INT8:
                for tensor in region.inputs:
                    if scheme.activation_bits < BITS:
                        self.reconnect(region, self.tensors[tensor], narrow[tensor, scheme.activation_bits])
                    elif tensor not in written:
                        self.reconnect(region, self.tensors[tensor], views[tensor])
                if region.pattern == "SiLU":
                    self._quantize_inside_silu(region)
            if scheme.dynamic or (scheme.accuracy_level is not None and not region.operator.looks_up):
                self._compute_inside(region, scheme)
            elif scheme.accuracy_level is not None:
                self._look_up_blocks(region, scheme)
            elif region.layer is not None and scheme.weight is not None:
                for place in region.layer.weights:
                    self._store_weight(region, place, scheme)
        return self.finish()

    # ---- activations ---------------------------------------------------------------------------

    def params(self, tensor: str, bits: int = BITS) -> QuantParams:
        while bits == BITS and tensor in self.joined:
            tensor = self.joined[tensor]
        return super().params(tensor, bits)

    def _quantize_after_producer(self, name: str) -> gs.Tensor:
        tensor = self.tensors[name]
        producer = tensor.inputs[0]
        raw = gs.Variable(self.new(f"{name}/float"), dtype=np.float32)
        producer.outputs = [raw if t is tensor else t for t in producer.outputs]
        self.pair(raw, tensor, name, self.params(name))
        self.computed[name] = raw
        return tensor

    def _quantize_narrowly(self, name: str, bits: int) -> gs.Tensor:
        """The tensor rounded to fewer than 8 bits, as uint8 codes that a Clip keeps within them."""
        params, stem = self.params(name, bits), f"{name}/{bits}bit"
        clipped, view = (gs.Variable(self.new(f"{stem}/{part}"), dtype=np.float32) for part in ("clip", "dq"))
        bounds = [self.scalar(np.float32(bound)) for bound in (params.low, params.high)]
        source = self.computed.get(name, self.tensors[name])
        self.graph.nodes.append(gs.Node("Clip", self.new(f"{stem}/Clip"), {}, [source, *bounds], [clipped]))
        self.pair(clipped, view, stem, params)
        return view

    def _quantize_inside_silu(self, region: Region) -> None:
        sigmoid, product = (self.nodes[n] for n in region.nodes)
        inner = sigmoid.outputs[0]
        view = gs.Variable(self.new(f"{inner.name}/dq"), dtype=np.float32)
        product.inputs = [view if t is inner else t for t in product.inputs]
        self.pair(inner, view, inner.name, QuantParams(1.0 / 255.0, 0))

    # ---- weights -------------------------------------------------------------------------------

    def _compute_inside(self, region: Region, scheme: Scheme) -> None:
        """The head node as a kernel that takes the weights as they are stored."""
        assert scheme.weight is not None
        places = region.params.weights
        spelling = spelled(region, scheme, [self.job.weights[place.key, scheme.weight.name] for place in places])
        self.compute_inside(region, spelling, spelling.constants)

    def _look_up_blocks(self, region: Region, scheme: Scheme) -> None:
        """Gather as GatherBlockQuantized. Where a layer multiplies with the same codes, the table is those, reshaped
        when the session is created."""
        assert scheme.weight is not None
        [place], node = region.params.weights, self.nodes[region.nodes[0]]
        weight, stem = self.job.weights[place.key, scheme.weight.name], self.stem(place)
        codes, shape = blocks.codes(weight), (place.out_channels, -1)
        if self._multiplied(place, scheme.weight):
            stored = self.constant(f"{stem}/codes", codes)
            table = self.node("Reshape", f"{stem}/table", [stored, self._shape(shape)], np.uint8)
        else:
            table = self.constant(f"{stem}/codes", codes.reshape(shape))
        node.op, node.domain, node.attrs = "GatherBlockQuantized", blocks.DOMAIN, blocks.lookup_attributes(weight)
        node.inputs = [table, node.inputs[1], self.constant(f"{stem}/scale", weight.scales)]
        if (zeros := blocks.zero_points(weight)) is not None:
            node.inputs.append(self.constant(f"{stem}/zero", zeros))

    def _multiplied(self, place: LayerWeight, weight_format: WeightFormat) -> bool:
        """True if a layer multiplies with the same weight in the same format, as it is stored."""
        model, first = self.job.model, self.job.model.shared_weights.get(place.key)
        for region in model.layers if first is not None else ():
            scheme = self.job.assignment.get(region.name)
            if scheme is None or scheme.weight != weight_format or scheme.accuracy_level is None:
                continue
            if not region.operator.looks_up and model.shared_weights.get(region.params.weights[0].key) == first:
                return True
        return False

    def _shape(self, shape: tuple[int, ...]) -> gs.Constant:
        return self.shared(f"mpq/shape/{'x'.join(map(str, shape))}", np.array(shape, np.int64))

    def _store_weight(self, region: Region, place: LayerWeight, scheme: Scheme) -> None:
        assert scheme.weight is not None
        weight = self.job.weights[place.key, scheme.weight.name]
        node = self.nodes[region.nodes[0]]
        codes = _INTEGERS[type(scheme.weight)]
        if scheme.reads is Format.INT8:
            element = TensorProto.UINT8 if scheme.unsigned_weights else TensorProto.INT8
            weight = self._with_room_for_bias(region, weight, scheme.activation_bits)
            stored = codes(self, place, weight, element)
            node.inputs[place.slot] = self.int8_weight(place, weight, stored, unsigned=scheme.unsigned_weights)
            self._int8_bias(region, place, weight, scheme.activation_bits)
        else:
            node.inputs[place.slot] = self._float_weight(place, weight, codes(self, place, weight, TensorProto.FLOAT))

    def _float_weight(self, place: LayerWeight, weight: QuantizedWeight, codes: gs.Tensor) -> gs.Tensor:
        """Codes times scales by plain arithmetic, which the session folds to a float32 constant."""
        values = weight.scales.reshape(place.scale_shape).astype(np.float32)
        scales = self.constant(f"{self.stem(place)}/scale", values)
        return self.node("Mul", f"{self.stem(place)}/w", [codes, scales], np.float32)

    def codes_per_channel(self, place: LayerWeight, weight: QuantizedWeight, element: int) -> gs.Tensor:
        """The codes in the weight's stored shape, as int8 or float values, or as uint8 with 128 added."""
        stored = place.stored(weight.codes)
        if element == TensorProto.UINT8:
            raised = stored.astype(np.int16) + UINT8_MIDDLE
            return self.constant(f"{self.stem(place)}/codes", raised.astype(np.uint8))
        if weight.format.storage_bits == 8:
            codes = self.constant(f"{self.stem(place)}/codes", stored.astype(np.int8))
            return codes if element == TensorProto.INT8 else self._cast(place, codes, element)
        return self._cast(place, self.small_int(f"{self.stem(place)}/codes", stored, TensorProto.INT4), element)

    def codes_of_dual(self, place: LayerWeight, weight: QuantizedWeight, element: int) -> gs.Tensor:
        """Codes times multipliers in the weight's stored shape, as int8 or float values."""
        assert weight.multipliers is not None
        rows, blocks = weight.multipliers.shape
        share = 8 // weight.format.low_bits if weight.format.low_bits else 1
        shape = (share, rows // share, blocks, place.fan_in // blocks)
        unfolded = self._dual_codes(place, weight, shape)
        if np.any(weight.multipliers != 1):
            multipliers = weight.multipliers.reshape(*shape[:-1], 1)
            stored_ones = self.small_int(f"{self.stem(place)}/multipliers", multipliers, TensorProto.UINT4)
            factor = self._wide(place, stored_ones, "multipliers32")
            unfolded = self.node("Mul", f"{self.stem(place)}/unfolded", [unfolded, factor], np.int32)
        return self._to_stored_shape(place, self._cast(place, unfolded, element))

    def _dual_codes(self, place: LayerWeight, weight: QuantizedWeight, shape: tuple[int, int, int, int]) -> gs.Tensor:
        """int32 codes [rows that share a byte, O / those, B, inputs of a block].

        An INT4 and, where codes are wider, their lowest bits: those of distant rows in one byte, so that one Div by
        powers of two takes them apart.
        """
        stem, low_bits = self.stem(place), weight.format.low_bits
        codes = weight.codes.reshape(shape)
        high = self._wide(place, self.small_int(f"{stem}/codes", codes >> low_bits, TensorProto.INT4), "codes32")
        if low_bits == 0:
            return high
        places = low_bits * np.arange(shape[0]).reshape(-1, 1, 1, 1)
        packed = ((codes & (1 << low_bits) - 1) << places).sum(axis=0, keepdims=True).astype(np.uint8)
        low = self._wide(place, self.constant(f"{stem}/low", packed), "low32")
        powers = self.shared(f"mpq/powers/{low_bits}", (1 << places).astype(np.int32))
        radix = self.scalar(np.int32(1 << low_bits))
        moved = self.node("Div", f"{stem}/moved", [low, powers], np.int32)
        lowest = self.node("Mod", f"{stem}/lowest", [moved, radix], np.int32)
        raised = self.node("Mul", f"{stem}/raised", [high, radix], np.int32)
        return self.node("Add", f"{stem}/joined", [raised, lowest], np.int32)

    def _wide(self, place: LayerWeight, tensor: gs.Tensor, name: str) -> gs.Tensor:
        return self.node("Cast", f"{self.stem(place)}/{name}", [tensor], np.int32, to=TensorProto.INT32)

    def _to_stored_shape(self, place: LayerWeight, matrix: gs.Tensor) -> gs.Tensor:
        flat = place.view_shape
        shaped = self.node("Reshape", f"{self.stem(place)}/shaped", [matrix, self._shape(flat)], matrix.dtype)
        if not place.swapped:
            return shaped
        *kept, last, before = range(len(flat))
        return self.node(
            "Transpose", f"{self.stem(place)}/transposed", [shaped], matrix.dtype, perm=[*kept, before, last]
        )

    def _cast(self, place: LayerWeight, tensor: gs.Tensor, element: int) -> gs.Tensor:
        dtype = np.int8 if element == TensorProto.INT8 else np.float32
        return self.node("Cast", f"{self.stem(place)}/{dtype.__name__}", [tensor], dtype, to=element)

    def _with_room_for_bias(self, region: Region, weight: QuantizedWeight, bits: int) -> QuantizedWeight:
        """The weight on larger steps where a channel's bias would not fit int32.

        Then the bias is so large that its float32 rounding exceeds what the smaller steps would keep. A channel of
        zeros has any step; it gets one on which the bias is as exact as in float32.
        """
        slot = region.params.bias_slot
        if region.params.bias is None or slot is None:
            return weight
        size = np.abs(self.nodes[region.nodes[0]].inputs[slot].values.astype(np.float64).ravel())
        steps = self.params(region.inputs[0], bits).scale * np.abs(weight.scales.astype(np.float64))
        needed = np.maximum(size / _LARGEST_BIAS, _SMALLEST_BIAS_STEP)
        zeros = ~weight.codes.any(axis=1) & (size > 0)
        return weight.coarser(np.where(zeros, needed / steps, np.maximum(needed / steps, 1.0)))

    def _int8_bias(self, region: Region, place: LayerWeight, weight: QuantizedWeight, bits: int) -> None:
        """int32 bias with scale input x weight, as QLinearConv and QGemm take it; one that is added later stays
        float."""
        node, slot = self.nodes[region.nodes[0]], region.params.bias_slot
        if region.params.bias is None or slot is None:
            return
        bias = node.inputs[slot]
        scales = self.params(region.inputs[0], bits).scale * weight.scales.astype(np.float64)
        codes = np.clip(np.rint(bias.values.astype(np.float64).ravel() / scales), -_LARGEST_BIAS, _LARGEST_BIAS)
        quantized = self.constant(f"{self.stem(place)}/bias", codes.astype(np.int32))
        scale = self.constant(f"{self.stem(place)}/bias_scale", scales.astype(np.float32))
        node.inputs[slot] = self.node(
            "DequantizeLinear", f"{self.stem(place)}/b", [quantized, scale], np.float32, axis=0
        )


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


def supports(region: Region, scheme: Scheme, opset: int) -> bool:
    """True where this dialect can spell the scheme for the region. The runtime may still refuse to fuse it."""
    if scheme.is_fp32:
        return True
    if scheme.half is not None or scheme.reads not in (Format.FLOAT, Format.INT8):
        return False
    weight = scheme.weight
    if scheme.accuracy_level is not None:
        return opset >= opsets.PER_CHANNEL and blocks.offers(region, scheme)
    if weight is not None and type(weight) not in _INTEGERS:
        return False
    if opset < (opsets.PER_CHANNEL if weight is None else weight.lowest_opset):
        return False
    if scheme.dynamic:
        return dynamic.offers(region, scheme)
    layer = region.layer
    if layer is None:
        return region.kind is not RegionKind.FLOAT and bool(region.inputs) and bool(region.outputs)
    if weight is not None and any(w.out_channels * weight.low_bits % 8 for w in layer.weights):
        return False  # low bits would not fill their bytes
    if scheme.reads is Format.INT8:
        return not layer.storage_only
    return True


def spelled(region: Region, scheme: Scheme, weights: Sequence[QuantizedWeight]) -> Spelling:
    """The head node of a region in a scheme whose kernel takes the weights as they are stored."""
    return (dynamic.spelled if scheme.dynamic else blocks.multiplies)(region, scheme, weights)


_INTEGERS: Mapping[type[WeightFormat], Callable[[_Writer, LayerWeight, QuantizedWeight, int], gs.Tensor]] = {
    PerChannel: _Writer.codes_per_channel,
    Dual: _Writer.codes_of_dual,
}
"""Weight format that computes in int8 or unfolds to float32 -> its int8 codes, as values of an element type."""
