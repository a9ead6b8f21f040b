"""Explicit quantization: symmetric Q/DQ in front of what computes in 8 bits, casts around what computes in 16 bits.

The spelling that TensorRT documents and that any runtime executes as it stands. One rule places activation pairs: a
quantized region reads its inputs through Q -> DQ, one pair per tensor, shared by all its readers; it writes float16.
So a bias stays float, a Q moves back over what only moves values, and a residual Add that follows a quantized layer
can join that layer's kernel: its other input is read through the pair that the branch has anyway (see
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html).
Inputs and outputs of the graph keep their types, unless `Rewrite.keep_io` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxmpq.dialects.ends import narrow_ends
from onnxmpq.dialects.types import Rewrite
from onnxmpq.dialects.writer import Writer
from onnxmpq.model import LayerWeight, Region, RegionKind
from onnxmpq.ranges import QuantParams
from onnxmpq.rounding import Fp8, Fp8Dual, PerBlock, PerChannel, QuantizedWeight, WeightFormat, opsets
from onnxmpq.schemes import DTYPES, ELEMENTS, Format, HalfType, Scheme

HALF_OPS = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "Sigmoid", "LeakyRelu", "Softmax", "MatMul"}
    | {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Expand", "Identity"}
    | {"GELU", "SiLU", "LayerNormalization"}
)
"""Regions without weights that may compute in 16 bits, by pattern. Reductions are not here; LayerNormalization is,
because its statistics are float32 in any case (`stash_type`)."""


def rewrite(job: Rewrite) -> onnx.ModelProto:
    """Write the plan into a copy of the model."""
    return ExplicitWriter(job).write()


def lowest_opset(scheme: Scheme) -> int:
    """The first opset whose types and operators can hold the scheme."""
    weights = opsets.PER_CHANNEL if scheme.weight is None else scheme.weight.lowest_opset
    return max(weights, opsets.FP8 if scheme.reads is Format.FP8 else opsets.PER_CHANNEL)


def spells(region: Region, scheme: Scheme, opset: int) -> bool:
    """True where this writer has a spelling; a dialect may allow less."""
    if scheme.is_fp32:
        return True
    if opset < lowest_opset(scheme) or scheme.reads is Format.INT8:
        return False
    if scheme.weight is not None and type(scheme.weight) not in _WEIGHTS:
        return False
    if scheme.weight_only:  # no such kernels for float32
        return False
    if region.layer is None:
        if scheme.half is not None and scheme.weight is None:
            return region.pattern in HALF_OPS
        return scheme.reads.quantized and region.kind is RegionKind.ARITHMETIC and region.op_type == "MatMul"
    layer = region.layer
    if scheme.weight is not None and any(w.channel_axis is None for w in layer.weights):
        return False  # scales per channel are along one axis
    if scheme.reads.quantized and layer.storage_only:
        return False
    blocked = scheme.weight is not None and scheme.weight.blocked
    return not blocked or (region.operator.multiplies_blocks and not layer.storage_only)


class ExplicitWriter(Writer):
    """Writes schemes as explicit quantization. Dialects with kernels of their own override `store_weights`."""

    def __init__(self, job: Rewrite) -> None:
        super().__init__(job)
        self.residuals: dict[str, tuple[str, gs.Tensor]] = {}  # region -> the tensor it reads quantized, and as what

    def write(self) -> onnx.ModelProto:
        chosen = self.chosen()
        views = self._quantize_inputs([r for r, s in chosen if s.reads.quantized])
        self._quantize_residuals({r.name for r, s in chosen if s.reads.quantized}, views)
        for region, scheme in chosen:
            if region.layer is not None and scheme.weight is not None:
                self.store_weights(region, scheme)
        halves: dict[str, HalfType] = {r.name: s.half for r, s in chosen if s.half is not None}
        carried = self._carried(halves)
        self._compute_in_half(carried, {r.name for r, s in chosen if s.reads.quantized})
        if not self.job.keep_io:
            self._narrow_ends({r.name: half for r, half in carried})
        return self.finish()

    # ---- activations in 8 bits -----------------------------------------------------------------

    def _quantize_inputs(self, regions: list[Region]) -> dict[str, gs.Tensor]:
        """Every tensor that these regions read, through a pair of its own; by tensor."""
        views = {t: self.quantized_view(t) for t in sorted({t for r in regions for t in r.inputs})}
        for region in regions:
            for tensor in region.inputs:
                self.reconnect(region, self.tensors[tensor], views[tensor])
        return views

    def _quantize_residuals(self, quantized: set[str], views: dict[str, gs.Tensor]) -> None:
        """A float Add of a quantized layer's result and a tensor that is quantized for others reads it quantized."""
        producers = self.job.model.producers
        for region in self.job.model.regions:
            if region.op_type != "Add" or len(region.inputs) != 2 or region.name in quantized:
                continue
            for own, other in (region.inputs, region.inputs[::-1]):
                source = producers.get(own)
                if source is not None and source.name in quantized and source.layer and other in views:
                    self.reconnect(region, self.tensors[other], views[other])
                    self.residuals[region.name] = other, views[other]
                    break

    # ---- weights -------------------------------------------------------------------------------

    def store_weights(self, region: Region, scheme: Scheme) -> None:
        """The region's head node reads its weights unfolded from what the scheme stores."""
        assert scheme.weight is not None
        for place in region.params.weights:
            weight = self.job.weights[place.key, scheme.weight.name]
            self.nodes[region.nodes[0]].inputs[place.slot] = self._weight(place, weight)

    def _weight(self, place: LayerWeight, weight: QuantizedWeight) -> gs.Tensor:
        """The layer's weight unfolded, in its stored shape."""
        return _WEIGHTS[type(weight.format)](self, place, weight)

    def per_channel(self, place: LayerWeight, weight: QuantizedWeight) -> gs.Tensor:
        """Integer codes with a scale per output channel."""
        return self.int8_weight(place, weight, self._int_codes(place, weight))

    def _int_codes(self, place: LayerWeight, weight: QuantizedWeight) -> gs.Tensor:
        codes, name = place.stored(weight.codes), f"{place.key}/codes"
        if weight.format.storage_bits == 4:
            return self.small_int(name, codes, TensorProto.INT4)
        return self.constant(name, np.ascontiguousarray(codes))

    def fp8(self, place: LayerWeight, weight: QuantizedWeight) -> gs.Tensor:
        """E4M3FN codes with a scale per output channel."""
        codes = place.stored(weight.codes)
        stored = self.raw(f"{place.key}/codes", TensorProto.FLOAT8E4M3FN, codes.shape, codes.tobytes())
        scales = self.constant(f"{place.key}/scale", weight.scales.astype(np.float32))
        return self.node("DequantizeLinear", f"{place.key}/w", [stored, scales], np.float32, axis=place.channel_axis)

    def blocks(self, place: LayerWeight, weight: QuantizedWeight) -> gs.Tensor:
        """int4 codes with a scale per block of inputs; the result has the scales' type."""
        dtype = np.dtype(weight.format.scale_type).type
        scales = np.ascontiguousarray(weight.scales.T if place.swapped else weight.scales).astype(dtype)
        inputs = [self._int_codes(place, weight), self.constant(f"{place.key}/scale", scales)]
        axis = 0 if place.swapped else 1
        return self.node("DequantizeLinear", f"{place.key}/blocks", inputs, dtype, axis=axis, block_size=weight.block)

    def fp8_dual(self, place: LayerWeight, weight: QuantizedWeight) -> gs.Tensor:
        """int4 -> float -> fp8 on the tensor's power-of-two scale -> float."""
        blocks = self.blocks(place, weight)
        unfolded = gs.Variable(self.new(f"{place.key}/w"), dtype=np.float32)
        self.pair(blocks, unfolded, place.key, QuantParams(weight.tensor_scale, 0, type="float8e4m3fn"))
        return unfolded

    # ---- 16 bits -------------------------------------------------------------------------------

    def _carried(self, halves: dict[str, HalfType]) -> list[tuple[Region, HalfType]]:
        """Regions in 16 bits: those chosen, and float ones between them that only move values, to save two casts."""
        model, found = self.job.model, dict(halves)
        producers, consumers = model.producers, model.consumers
        for region in model.regions:
            if region.kind is not RegionKind.PASSTHROUGH or region.name in self.job.assignment:
                continue
            sides: set[HalfType | None] = {halves.get(r.name) for t in region.outputs for r in consumers.get(t, [])}
            source = producers.get(region.inputs[0])
            if source is not None:
                sides.add(found.get(source.name))
            if self.job.keep_io and (source is None or set(region.outputs).intersection(model.output_names)):
                sides.add(None)
            if len(sides) == 1 and (half := sides.pop()) is not None:
                found[region.name] = half
        return [(r, found[r.name]) for r in model.regions if r.name in found]

    def _narrow_ends(self, halves: dict[str, HalfType]) -> None:
        """Inputs that only 16-bit regions of one type read, and outputs that such a region writes."""
        model, inputs = self.job.model, dict[str, HalfType]()
        consumers, producers = model.consumers, model.producers
        for tensor in self.graph.inputs:
            found = {halves.get(r.name) for r in consumers.get(tensor.name, []) if r.op_type != "Shape"}
            if len(found) == 1 and (half := found.pop()) is not None:
                inputs[tensor.name] = half
        made = {t: halves.get(producers[t].name) for t in model.output_names if t in producers}
        narrow_ends(self, inputs, {t: half for t, half in made.items() if half is not None})

    def _compute_in_half(self, regions: list[tuple[Region, HalfType]], quantized: set[str]) -> None:
        """Casts around these regions, or only behind them where they are quantized; none between two of one type."""
        raw: dict[tuple[str, HalfType], gs.Tensor] = {}
        for region, half in regions:
            for tensor in region.outputs:
                raw[tensor, half] = self._half_result(self.tensors[tensor], half, region.name not in quantized)
        for region, half in ((r, h) for r, h in regions if r.name not in quantized):
            residual, view = self.residuals.get(region.name, ("", None))
            if view is not None:
                self.reconnect(region, view, self._cast(view, f"{residual}/residual", half))
            for tensor in region.inputs:
                if tensor == residual:
                    continue
                if (tensor, half) not in raw:
                    raw[tensor, half] = self._cast(self.tensors[tensor], f"{tensor}/{half}", half)
                self.reconnect(region, self.tensors[tensor], raw[tensor, half])
            for name in region.nodes:
                node = self.nodes[name]
                bias = region.layer.bias if region.layer else None
                cast = self.casts_bias(node)
                node.inputs = [self._half_constant(t, half, cast and t.name == bias) for t in node.inputs]

    def casts_bias(self, node: gs.Node) -> bool:
        """True where a bias that this node reads in 16 bits is a float32 constant with a Cast behind it."""
        return True

    def _half_result(self, tensor: gs.Tensor, half: HalfType, computed_so: bool) -> gs.Tensor:
        """The producer computes the type, or is cast to it; the tensor's own name is float32 again. What 16-bit
        readers read."""
        producer = tensor.inputs[0]
        computed = gs.Variable(self.new(f"{tensor.name}/{half}"), dtype=np.float32)
        producer.outputs = [computed if t is tensor else t for t in producer.outputs]
        if half == "float16" and computed_so:
            self.append_cast(computed, tensor, TensorProto.FLOAT)
            return computed
        narrow = gs.Variable(self.new(f"{tensor.name}/narrow"), dtype=np.float32)
        self.append_cast(computed, narrow, ELEMENTS[half])
        self.append_cast(narrow, tensor, TensorProto.FLOAT)
        return tensor if half == "bfloat16" else narrow

    def _cast(self, tensor: gs.Tensor, name: str, half: HalfType) -> gs.Tensor:
        """A tensor in the type that the nodes compute in.

        onnxruntime's CPU provider has no bfloat16 kernels, so bfloat16 is a cast there and back; the device's own
        compiler computes in between as it sees fit.
        """
        narrow = gs.Variable(self.new(name), dtype=np.float32)
        self.append_cast(tensor, narrow, ELEMENTS[half])
        if half == "float16":
            return narrow
        wide = gs.Variable(self.new(f"{name}/wide"), dtype=np.float32)
        self.append_cast(narrow, wide, TensorProto.FLOAT)
        return wide

    def _half_constant(self, tensor: gs.Tensor, half: HalfType, cast: bool) -> gs.Tensor:
        """A float32 initializer in 16 bits; any other tensor as it is.

        cast: store it in float32 with a Cast behind it, as biases are.
        """
        if not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32:
            return tensor
        name = f"{tensor.name}/{half}"
        if cast:
            return self._cast(tensor, name, half)
        if half == "float16":
            return self.shared(name, tensor.values.astype(np.float16))
        if name not in self.shared_constants:
            words = onnx.numpy_helper.from_array(tensor.values.astype(DTYPES[half]), name)
            self.shared_constants[name] = self.raw(name, TensorProto.BFLOAT16, tensor.values.shape, words.raw_data)
        wide = self.node("Cast", f"{name}/wide", [self.shared_constants[name]], np.float32, to=TensorProto.FLOAT)
        return wide


_WEIGHTS: Mapping[type[WeightFormat], Callable[[ExplicitWriter, LayerWeight, QuantizedWeight], gs.Tensor]] = {
    PerChannel: ExplicitWriter.per_channel,
    PerBlock: ExplicitWriter.blocks,
    Fp8: ExplicitWriter.fp8,
    Fp8Dual: ExplicitWriter.fp8_dual,
}
"""Weight format -> its spelling: the layer's weight unfolded, in its stored shape."""
